//! What frameworks may write to do harm: clean names or problems come of it, and nothing grows faster than
//! it.

use contrail_mesos_api::cluster::{Object, ServiceKey, Vip};
use contrail_mesos_api::parser_testing::{assert_linear, for_damaged_input};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::build::MAX_BACKENDS;
use super::super::index::VipOwners;
use super::fixture::{TaskSpec, classification, compute, read, web};
use super::reference;
use crate::mesos_master::{Change, State, read_state};
use crate::stores::mesos::MesosView;

/// The JSON of a task that grows with a size.
type TaskOfSize = Box<dyn Fn(usize) -> Value>;
/// A task for each number.
type NumberedTask = fn(usize) -> TaskSpec;

/// How many tasks the smaller of two clusters has.
const SIZE: usize = 150;

#[test]
fn hostile_labels_make_clean_names_or_problems() {
    for value in [
        "<script>alert(1)</script>:80",
        "'; DROP TABLE services; --:80",
        "../../etc/passwd:80",
        "$(reboot)`reboot`:80",
        "a\r\nb\0c\u{202e}d:80",
        "日本語:80",
        "xn--80ak6aa92e:80",
        "*.com:80",
        "127.0.0.1.nip.io:80",
        "leader.mesos:80",
        &format!("/{}:80", "x".repeat(10_000)),
        &format!("/{}:80", "x.".repeat(150)),
        &format!("/{}:80", "x".repeat(900)),
        &":".repeat(900),
    ] {
        let desired = compute(&[web().vip(31000, value)]);
        for key in desired.services.keys() {
            let text = key.to_string();
            assert_eq!(text.parse::<ServiceKey>().as_ref(), Ok(key), "{value:?}");
            let Vip::Name(name) = &key.vip else {
                panic!("{value:?} is {key}");
            };
            assert!(name.ends_with(".marathon"), "{name}");
        }
        assert_eq!(
            desired.services.len() + desired.problems.len(),
            1,
            "{value:?}: {desired:?}"
        );
        for problem in &desired.problems {
            let text = format!("{}{}{}", problem.task, problem.subject, problem.message);
            assert!(
                text.len() < 1000 && !text.contains(char::is_control),
                "{text:?}"
            );
        }
    }
}

#[test]
fn name_that_is_an_address_with_its_framework_is_refused() {
    // The framework `N` is named `1`.
    for (value, is_refused) in [
        ("10.0.0:80", true),
        ("/10.0.0:80", true),
        ("10.0:80", false),
        ("10.0.0.0:80", false),
        ("a.10.0.0:80", false),
    ] {
        let desired = compute(&[web().of("N").vip(31000, value)]);
        for key in desired.services.keys() {
            assert_eq!(key.to_string().parse().as_ref(), Ok(key), "{value}");
        }
        let is_a_problem = desired
            .problems
            .iter()
            .any(|problem| problem.message.contains("it is an IP address"));
        assert_eq!(is_a_problem, is_refused, "{value}: {desired:?}");
        assert_eq!(desired.services.is_empty(), is_refused, "{value}");
    }
}

#[test]
fn texts_for_operators_are_short_and_escaped() {
    let name = format!("\u{202e}\n{}", "n".repeat(5000));
    let tasks = [web()
        .id(&"i".repeat(3000))
        .name(&name)
        .vip(31000, "/web")
        .vip(31001, "/w:80")];
    let desired = compute(&tasks);
    let problem = &desired.problems[0];
    assert!(
        problem.task.starts_with("\\u{202e}\\n") && problem.task.len() < 600,
        "{problem:?}"
    );
    let service = desired.services.values().next().unwrap();
    assert!(service.backends[0].backend.task.len() < 600);
}

#[test]
fn many_virtual_ips_and_ports_are_limited_with_a_problem() {
    let labels: Vec<(String, String)> = (0..40)
        .map(|number| (format!("VIP_{number}"), format!("/v{number}:80")))
        .collect();
    let labels: Vec<(&str, &str)> = labels
        .iter()
        .map(|(key, value)| (&**key, &**value))
        .collect();
    let desired = compute(&[web().port(31000, "tcp", &labels)]);
    assert_eq!((desired.services.len(), desired.problems.len()), (16, 1));
    assert!(
        desired.problems[0].subject.contains("40 virtual IPs"),
        "{:?}",
        desired.problems
    );

    let ports = (0..600).fold(web(), |task, number| {
        task.vip(1 + number, &format!("/p{number}:80"))
    });
    let desired = compute(&[ports]);
    assert_eq!((desired.services.len(), desired.problems.len()), (256, 1));

    // Each port at each address.
    let addresses: Vec<String> = (1..200).map(|number| format!("10.0.0.{number}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let ports = (0..250).fold(web().on("overlay", &addresses), |task, number| {
        task.vip(1 + number, "/p:80")
    });
    let desired = compute(&[ports]);
    let service = desired.services.values().next().unwrap();
    assert_eq!(service.backends.len(), MAX_BACKENDS);
    assert_eq!(desired.problems.len(), 2, "{:?}", desired.problems);
}

#[test]
fn largest_service_and_name_fit_into_a_line_of_the_watch() {
    let ports: Vec<Value> = (0..64)
        .map(|number| json!({"number": 31000 + number, "name": format!("{number}{}", "p".repeat(200))}))
        .collect();
    let tasks: Vec<TaskSpec> = (0..1200)
        .map(|number| {
            let address = format!("10.0.{}.{}", number / 200, number % 200 + 1);
            let id = format!("{number}{}", "\u{7f}日".repeat(500));
            let spec = TaskSpec {
                ports: ports.clone(),
                ..web()
            };
            spec.id(&id)
                .on("overlay", &[&address, "fd00::7"])
                .vip(8080, "/web:80")
        })
        .collect();
    let desired = compute(&tasks);
    let (key, service) = desired.services.iter().next().unwrap();
    assert_eq!(service.backends.len(), MAX_BACKENDS);
    let service = contrail_mesos_api::cluster::Service {
        service: key.clone(),
        addresses: vec![],
        backends: service
            .backends
            .iter()
            .map(|backend| backend.backend.clone())
            .collect(),
        affinity: None,
    };
    let name = desired.task_names.values().next().unwrap();
    assert!(name.instances.len() > 50, "{}", name.instances.len());
    for object in [Object::Service(service), Object::TaskName(name.clone())] {
        let bytes = serde_json::to_string(&object).unwrap().len();
        assert!(
            bytes < contrail_mesos_api::cluster::MAX_LINE_BYTES * 9 / 10,
            "{bytes}"
        );
    }
}

#[test]
fn damaged_input_never_panics() {
    let task = web()
        .on("overlay", &["10.0.0.7"])
        .mapped(31000, 8080, "udp,tcp")
        .host_vip(31000, "/web.group:80")
        .container_vip(8080, "[fd01:c::5]:80", "overlay")
        .checked(Some(true));
    let task = TaskSpec {
        labels: vec![("vip_PORT0", "tcp:///web:80")],
        resources: json!([{"name": "ports", "ranges": {"range": [{"begin": 31000, "end": 31001}]}}]),
        docker: Some(json!({"network": "USER"})),
        ..task
    };
    for_damaged_input(task.json().to_string().as_bytes(), |input| {
        let Ok(task) = serde_json::from_slice::<Value>(input) else {
            return;
        };
        let tasks = json!({"get_state": {"get_tasks": {"tasks": [task]}, "get_agents": {},
            "get_frameworks": {}, "get_executors": {}}});
        let mut state: State = read_state(&tasks);
        let whole = super::fixture::state(&[]);
        (state.agents, state.frameworks) = (whole.agents, whole.frameworks);
        let mut view = MesosView::default();
        view.apply_snapshot(state, Instant::now(), std::time::Duration::ZERO);
        let desired = reference::compute(&view, &classification(), &VipOwners::new());
        for key in desired.services.keys() {
            assert_eq!(key.to_string().parse::<ServiceKey>().as_ref(), Ok(key));
        }
    });
}

#[test]
fn large_declarations_take_linear_time() {
    let labels = |size: usize, key: &str, value: &str| {
        let labels: Vec<Value> = (0..size)
            .map(|number| json!({"key": format!("{key}{number}"), "value": value}))
            .collect();
        json!({ "labels": labels })
    };
    let tasks: [(&str, TaskOfSize); 6] = [
        (
            "labels of a port",
            Box::new(move |size| {
                let port = json!({"number": 80, "labels": labels(size, "VIP_", "/web:80")});
                json!({"discovery": {"ports": {"ports": [port]}}})
            }),
        ),
        (
            "ports",
            Box::new(|size| {
                let port = json!({"number": 80, "protocol": "?", "name": "p"});
                json!({"discovery": {"ports": {"ports": vec![port; size]}}})
            }),
        ),
        (
            "labels of a task",
            Box::new(move |size| json!({ "labels": labels(size, "vip_PORT", "?") })),
        ),
        (
            "protocols",
            Box::new(|size| {
                let port = json!({"number": 80, "protocol": "udp,".repeat(size)});
                json!({"discovery": {"ports": {"ports": [port]}}})
            }),
        ),
        (
            "networks",
            Box::new(|size| {
                let network = |name: String| {
                    json!({"name": name, "port_mappings": [
                {"host_port": 1, "container_port": 2}]})
                };
                let requested: Vec<Value> = (0..size).map(|at| network(format!("a{at}"))).collect();
                let actual: Vec<Value> = (0..size)
                    .map(|at| json!({"name": format!("b{at}")}))
                    .collect();
                json!({"container": {"network_infos": requested},
                "statuses": [{"container_status": {"network_infos": actual}}]})
            }),
        ),
        (
            "value of a label",
            Box::new(|size| {
                let label = json!({"key": "VIP_0", "value": "a:".repeat(size)});
                json!({"discovery": {"ports": {"ports": [{"number": 80, "labels": {"labels": [label]}}]}}})
            }),
        ),
    ];
    for (what, task) in tasks {
        assert_linear(what, 2000, |size| {
            let mut task = task(size);
            task["task_id"] = json!({"value": "t"});
            task["framework_id"] = json!({"value": "F"});
            let state = read_state(&json!({"get_state": {"get_tasks": {"tasks": [task]},
                "get_agents": {}, "get_frameworks": {}, "get_executors": {}}}));
            assert_eq!(state.tasks.len(), 1, "{:?}", state.skipped);
        });
    }
}

#[test]
fn many_services_and_backends_take_linear_time() {
    let shapes: [(&str, NumberedTask); 4] = [
        ("one service", |number| {
            web().id(&number.to_string()).vip(31000, "/web:80")
        }),
        ("a service each", |number| {
            web()
                .id(&number.to_string())
                .vip(31000, &format!("/web{number}:80"))
        }),
        ("an IP VIP each", |number| {
            let vip = format!("10.{}.{}.9:80", number / 250 % 250, number % 250);
            web().id(&number.to_string()).vip(31000, &vip)
        }),
        ("a problem each", |number| {
            web()
                .id(&number.to_string())
                .vip(31000, &format!("/web{number}"))
        }),
    ];
    for (what, spec) in shapes {
        let views = [SIZE, 4 * SIZE].map(|size| {
            let mut view = super::fixture::view(&[]);
            for number in 0..size {
                let task = Change::TaskAdded(Box::new(read(&spec(number))));
                view.apply_change(task, Instant::now());
            }
            view
        });
        assert_linear(what, SIZE, |size| {
            let view = &views[usize::from(size > SIZE)];
            let desired = reference::compute(view, &classification(), &VipOwners::new());
            assert!(!desired.services.is_empty() || desired.problems.len() == size);
        });
    }
}
