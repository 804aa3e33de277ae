//! A Marathon whose apps and events the test sets.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use mesos_module_tests::testbed::Host;
use serde_json::{Value, json};

#[derive(Default)]
struct MarathonState {
    apps: Vec<Value>,
    /// The open event streams.
    streams: Vec<TcpStream>,
}

/// The server. Its threads end with the test process.
#[derive(Clone, Default)]
pub(crate) struct Marathon(Arc<Mutex<MarathonState>>);

impl Marathon {
    /// Starts on a host.
    pub(crate) fn start(host: &Host, port: u16) -> Result<Self> {
        let address = SocketAddr::new(host.address(), port);
        let listener = host.run(move || TcpListener::bind(address))??;
        let marathon = Self::default();
        let served = marathon.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let served = served.clone();
                // A client may disconnect at any time.
                std::thread::spawn(move || drop(served.serve(stream)));
            }
        });
        Ok(marathon)
    }

    fn state<T>(&self, look: impl FnOnce(&mut MarathonState) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Removes an app, and sends an event about it.
    pub(crate) fn remove(&self, id: &str) {
        self.state(|state| {
            state.apps.retain(|other| other["id"] != id);
            let event = event("app_terminated_event", &json!({"appId": id}));
            state
                .streams
                .retain_mut(|stream| stream.write_all(event.as_bytes()).is_ok());
        });
    }

    /// Sets an app with these tasks, and these labels of its network, and sends an event about it.
    pub(crate) fn app(&self, id: &str, tasks: &[&str], labels: &Value) {
        let tasks = tasks
            .iter()
            .map(|task| json!({"id": task, "state": "TASK_RUNNING"}));
        let app = json!({
            "id": id,
            "instances": 1,
            "networks": [{"mode": "container", "name": "contrail-cni-plugin", "labels": labels}],
            "tasks": tasks.collect::<Vec<_>>(),
        });
        self.state(|state| {
            state.apps.retain(|other| other["id"] != id);
            state.apps.push(app);
            let event = event("app_terminated_event", &json!({"appId": id}));
            state
                .streams
                .retain_mut(|stream| stream.write_all(event.as_bytes()).is_ok());
        });
    }

    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut first = String::new();
        reader.read_line(&mut first)?;
        let mut line = first.clone();
        while line.trim_end() != "" {
            line.clear();
            reader.read_line(&mut line)?;
        }
        let path = first.split(' ').nth(1).unwrap_or_default();
        let path = path.split('?').next().unwrap_or_default();
        if path == "/v2/events" {
            let hello = event("event_stream_attached", &json!({"remoteAddress": "::1"}));
            let head =
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
            stream.write_all(format!("{head}{hello}").as_bytes())?;
            let kept = stream.try_clone()?;
            self.state(|state| state.streams.push(kept));
            // Until the client disconnects.
            reader.read_to_end(&mut vec![])?;
            return Ok(());
        }
        let found = match path {
            "/v2/info" => Some(json!({"version": "1.11.24"})),
            "/v2/apps" => Some(json!({"apps": self.state(|state| state.apps.clone())})),
            "/v2/pods/::status" => Some(json!([])),
            _ => {
                let id = path.strip_prefix("/v2/apps").unwrap_or_default();
                let found =
                    self.state(|state| state.apps.iter().find(|app| app["id"] == id).cloned());
                found.map(|app| json!({ "app": app }))
            }
        };
        let (status, body) = match found {
            Some(found) => ("200 OK", found.to_string()),
            None => (
                "404 Not Found",
                json!({"message": "nothing here"}).to_string(),
            ),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(format!("{head}{body}").as_bytes())
    }
}

fn event(kind: &str, data: &Value) -> String {
    format!("event: {kind}\r\ndata: {data}\r\n\r\n")
}
