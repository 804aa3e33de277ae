//! The client of a node daemon: the watch, and its reports.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use tokio::time::Instant;

use super::lines::{LineDecoder, LineTooLong};
use super::{
    EndpointsReport, HEARTBEAT_INTERVAL, MAX_LINE_BYTES, NodeAnswer, NodeList, NodeReport,
    Revision, WatchItem,
};
use crate::agent_api::managers::{ClientOptions, ManagerError, ManagerSetupError, Managers};
use crate::http::{Address, HttpError, Streaming, expect_object};
use crate::text::Quoted;

/// A stream that is silent for so long has lost its manager.
const IDLE_TIMEOUT: Duration = HEARTBEAT_INTERVAL.saturating_mul(3);
/// How long all managers together may take to open a stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(20);

/// The client. Clones share connections and the manager in use.
#[derive(Clone)]
pub struct ClusterClient(Arc<Managers>);

impl fmt::Debug for ClusterClient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ClusterClient")
            .field("managers", &self.managers())
            .finish_non_exhaustive()
    }
}

/// Why a watch ended.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The connection failed, or was silent.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// A line is too long.
    #[error("the manager sent a line of more than {MAX_LINE_BYTES} bytes")]
    LineTooLong,
    /// A line is not an item.
    #[error("the manager sent {line}, which is not an item of a watch: {problem}")]
    InvalidItem {
        /// The start of the line, quoted.
        line: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl ClusterClient {
    /// A client of these managers; the options' `agent` is the node's name. Reads the token and
    /// certificates: blocks on the file system.
    pub fn new(options: &ClientOptions) -> Result<Self, ManagerSetupError> {
        Managers::new(options).map(|managers| Self(Arc::new(managers)))
    }

    /// The managers, in the order in which they were given.
    #[must_use]
    pub fn managers(&self) -> &[Address] {
        self.0.failover().servers()
    }

    /// Opens a watch at the leader. Tries each manager once. With `since`, the manager may leave out
    /// the snapshot.
    pub async fn watch(&self, since: Option<Revision>) -> Result<WatchStream, ManagerError> {
        let node = self.0.encoded_agent();
        let path = match since {
            None => format!("/v1/watch?node={node}"),
            Some(since) => format!("/v1/watch?node={node}&since={since}"),
        };
        let operation = "watch the cluster's state".to_owned();
        let (index, stream) = self.0.open(operation, &path, OPEN_TIMEOUT).await?;
        Ok(WatchStream {
            managers: self.0.clone(),
            index,
            stream,
            lines: LineDecoder::new(MAX_LINE_BYTES),
        })
    }

    /// Reports the node's state. Retries until the deadline.
    pub async fn report(
        &self,
        report: &NodeReport,
        deadline: Instant,
    ) -> Result<NodeAnswer, ManagerError> {
        let path = format!("/v1/nodes/{}", self.0.encoded_agent());
        let operation = "report the state of this node".to_owned();
        self.0.put(operation, path, report, deadline).await
    }

    /// Reports the node's containers on overlays that isolate groups. Retries until the deadline.
    pub async fn report_endpoints(
        &self,
        report: &EndpointsReport,
        deadline: Instant,
    ) -> Result<(), ManagerError> {
        let path = format!("/v1/nodes/{}/endpoints", self.0.encoded_agent());
        let operation = "report the containers of this node".to_owned();
        let _: serde::de::IgnoredAny = self.0.put(operation, path, report, deadline).await?;
        Ok(())
    }

    /// All nodes, as the leader knows them. Retries until the deadline.
    pub async fn nodes(&self, deadline: Instant) -> Result<NodeList, ManagerError> {
        self.list("/v1/nodes".to_owned(), deadline).await
    }

    /// The nodes that have an address or whose containers may have it, and the containers that have it.
    /// Retries until the deadline.
    pub async fn nodes_with_address(
        &self,
        address: IpAddr,
        deadline: Instant,
    ) -> Result<NodeList, ManagerError> {
        let path = format!("/v1/nodes?address={address}");
        self.list(path, deadline).await
    }

    async fn list(&self, path: String, deadline: Instant) -> Result<NodeList, ManagerError> {
        let operation = "list the nodes".to_owned();
        self.0
            .call(operation, Method::GET, path, None, deadline)
            .await
    }
}

/// An open watch.
pub struct WatchStream {
    managers: Arc<Managers>,
    index: usize,
    stream: Streaming,
    lines: LineDecoder,
}

impl fmt::Debug for WatchStream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("WatchStream")
            .field("manager", self.manager())
            .finish_non_exhaustive()
    }
}

impl WatchStream {
    /// The manager that sends it.
    #[must_use]
    pub fn manager(&self) -> &Address {
        &self.managers.failover().servers()[self.index]
    }

    /// The items that have arrived, at least one; none once the manager has ended the stream. Fails
    /// if nothing arrives for three times [`HEARTBEAT_INTERVAL`].
    ///
    /// Cancel-safe: no items are lost.
    pub async fn next(&mut self) -> Result<Option<Vec<WatchItem>>, WatchError> {
        loop {
            let Some(bytes) = self.stream.next(IDLE_TIMEOUT).await? else {
                return Ok(None);
            };
            self.lines.push(&bytes);
            let mut items = Vec::new();
            while let Some(line) = self
                .lines
                .next_line()
                .map_err(|LineTooLong| WatchError::LineTooLong)?
            {
                items.push(parse(line)?);
            }
            if !items.is_empty() {
                return Ok(Some(items));
            }
        }
    }

    /// Lets the next watch be opened at another manager.
    pub fn leave(self) {
        self.managers.failover().leave(self.index);
    }
}

fn parse(line: &[u8]) -> Result<WatchItem, WatchError> {
    expect_object(line)
        .and_then(serde_json::from_slice)
        .map_err(|error| WatchError::InvalidItem {
            line: Quoted(line).to_string(),
            problem: error.to_string(),
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::sync::broadcast;

    use super::super::NodeCondition;
    use super::*;
    use crate::agent_api::manager_address;
    use crate::http::scripted::{Reply, ScriptedServer, ok};
    use crate::http::{Limits, TlsOptions};
    use crate::parser_testing::for_damaged_input;

    fn client(managers: &[&ScriptedServer]) -> ClusterClient {
        let address =
            |manager: &&ScriptedServer| manager_address(&manager.address.to_string()).unwrap();
        ClusterClient::new(&ClientOptions {
            managers: managers.iter().map(address).collect(),
            agent: "node-1".to_owned(),
            token_file: None,
            tls: TlsOptions::default(),
            limits: Limits::default(),
        })
        .unwrap()
    }

    fn heartbeat(counter: u64) -> WatchItem {
        WatchItem::Heartbeat {
            revision: Revision { term: 1, counter },
        }
    }

    fn line(item: &WatchItem) -> Vec<u8> {
        let mut line = serde_json::to_vec(item).unwrap();
        line.push(b'\n');
        line
    }

    #[tokio::test]
    async fn watch_returns_whole_items_and_follows_redirects() {
        let (feed, _) = broadcast::channel(8);
        let mut first = line(&heartbeat(1));
        first.extend_from_slice(&line(&heartbeat(2)));
        first.extend_from_slice(b"{\"type\":");
        let sender = feed.clone();
        let leader = ScriptedServer::start(move |_, _| {
            Reply::StreamAfter("application/x-ndjson", first.clone(), sender.clone())
        })
        .await;
        let location: &'static str = format!("http://{}/v1/watch", leader.address).leak();
        let standby =
            ScriptedServer::start(move |_, _| Reply::WithHeader(307, "location", location)).await;
        let client = client(&[&standby, &leader]);
        let since = Revision {
            term: 3,
            counter: 4,
        };
        let mut watch = client.watch(Some(since)).await.unwrap();
        assert_eq!(watch.manager(), &client.managers()[1]);
        let request = &leader.requests()[0];
        assert_eq!(request.path, "/v1/watch?node=node-1&since=3.4");
        assert_eq!(
            request.header(crate::agent_api::AGENT_HEADER),
            Some("node-1")
        );
        let items = watch.next().await.unwrap().unwrap();
        assert_eq!(items, [heartbeat(1), heartbeat(2)]);
        feed.send(b"\"heartbeat\",\"revision\":\"1.3\"}\n".to_vec())
            .unwrap();
        assert_eq!(watch.next().await.unwrap().unwrap(), [heartbeat(3)]);
        feed.send(Vec::new()).unwrap();
        assert_eq!(watch.next().await.unwrap(), None);
        watch.leave();
        assert_eq!(client.0.failover().current(), Some(&client.managers()[0]));
    }

    #[tokio::test]
    async fn refused_watch_is_opened_at_another_manager() {
        let behind = ScriptedServer::start(|_, _| {
            Reply::Answer(409, json!({"error": "the revision is later"}).to_string())
        })
        .await;
        let leader = ScriptedServer::start(|_, _| {
            Reply::Unsized("application/x-ndjson", line(&heartbeat(1)))
        })
        .await;
        let client_of_both = client(&[&behind, &leader]);
        let mut watch = client_of_both.watch(None).await.unwrap();
        assert_eq!(watch.next().await.unwrap().unwrap(), [heartbeat(1)]);
        // Refused by all, the refusal is the error.
        let error = client(&[&behind]).watch(None).await.unwrap_err();
        assert!(!error.kind.is_transient(), "{error}");
    }

    #[tokio::test]
    async fn watch_refuses_long_and_invalid_lines() {
        let long = vec![b'x'; MAX_LINE_BYTES + 1];
        for (body, is_too_long) in [(long, true), (b"[]\n".to_vec(), false)] {
            let server = ScriptedServer::start(move |_, _| {
                Reply::Unsized("application/x-ndjson", body.clone())
            })
            .await;
            let mut watch = client(&[&server]).watch(None).await.unwrap();
            let error = loop {
                match watch.next().await {
                    Ok(items) => assert!(items.is_some(), "the stream ended without an error"),
                    Err(error) => break error,
                }
            };
            assert_eq!(
                matches!(error, WatchError::LineTooLong),
                is_too_long,
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn report_returns_the_answer_and_refusals() {
        let server = ScriptedServer::start(|request, count| {
            assert_eq!(request.line(), "PUT /v1/nodes/node-1");
            assert_eq!(request.json()["address"], "192.0.2.1");
            if count == 0 {
                ok(&json!({"problems": ["no subnet is left"]}))
            } else {
                Reply::Answer(400, json!({"error": "no"}).to_string())
            }
        })
        .await;
        let client = client(&[&server]);
        let report = NodeReport {
            address: "192.0.2.1".parse().unwrap(),
            uplink_mtu: Some(1500),
            versions: super::super::Versions::default(),
            configuration: String::new(),
            applied: None,
            subsystems: vec![],
            endpoints: None,
            blocks: vec![],
        };
        let deadline = || Instant::now() + Duration::from_secs(30);
        let answer = client.report(&report, deadline()).await.unwrap();
        assert_eq!(answer.problems, ["no subnet is left"]);
        let error = client.report(&report, deadline()).await.unwrap_err();
        assert!(!error.kind.is_transient(), "{error}");
    }

    #[tokio::test]
    async fn nodes_are_listed() {
        let server = ScriptedServer::start(|request, _| {
            assert_eq!(request.line(), "GET /v1/nodes");
            ok(&json!({"revision": "3.4", "nodes": [
                {"name": "a", "address": "192.0.2.1", "condition": "current", "applied": "3.4",
                    "reported_seconds": 1},
                {"name": "b", "address": null, "condition": "of-later-versions", "applied": null,
                    "reported_seconds": null, "more": 1},
            ]}))
        })
        .await;
        let deadline = Instant::now() + Duration::from_secs(30);
        let list = client(&[&server]).nodes(deadline).await.unwrap();
        let conditions: Vec<_> = list.nodes.iter().map(|node| node.condition).collect();
        assert_eq!(conditions, [NodeCondition::Current, NodeCondition::Unknown]);
    }

    #[test]
    fn damaged_input_never_panics() {
        for_damaged_input(&line(&heartbeat(1)), |input| {
            // An error is as good as an item.
            let _ = parse(input);
        });
    }
}
