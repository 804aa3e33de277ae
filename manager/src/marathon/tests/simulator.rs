//! Tests against the simulated Marathon without Mesos: apps and pods stay unlaunched.

use super::*;
use contrail_mesos_sim::marathon::{Marathon, Options};

async fn post(url: String, body: Value) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client
        .post(url)
        .body(body.to_string())
        .send()
        .await
        .unwrap();
    assert!(answer.status().is_success(), "{:?}", answer.text().await);
}

#[tokio::test]
async fn client_lists_and_reads_apps_and_pods() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let marathon = Marathon::start(Options {
        master: closed.local_addr().unwrap().to_string(),
        listen: ([127, 0, 0, 1], 0).into(),
        ..Options::default()
    })
    .await
    .unwrap();
    let network = json!({"mode": "container", "name": "contrail", "labels": {"networks": "blue"}});
    let app = json!({"id": "/shop/web", "cmd": "sleep 1", "instances": 3, "networks": [network],
        "labels": {"floating": "yes"}});
    post(format!("{}/v2/apps", marathon.url()), app).await;
    let container = json!({"name": "c1", "resources": {"cpus": 0.1, "mem": 32},
        "exec": {"command": {"shell": "sleep 1"}}});
    let pod = json!({"id": "/pod", "networks": [network], "containers": [container]});
    post(format!("{}/v2/pods", marathon.url()), pod).await;

    let client = MarathonClient::new(MarathonOptions {
        servers: vec![Address::parse(&marathon.url(), DEFAULT_PORT).unwrap()],
        access: LeaderOptions::default(),
    })
    .unwrap();
    let listing = client.list().await.unwrap();
    assert!(listing.is_complete(), "{:?}", listing.skipped);
    let [app] = listing.apps.as_slice() else {
        panic!("{:?}", listing.apps)
    };
    assert_eq!((app.id.as_str(), app.instances), ("/shop/web", 3));
    assert_eq!(&*app.labels, [("floating".into(), "yes".into())]);
    assert_eq!(app.networks[0].mode, Mode::Container);
    assert_eq!(
        &*app.networks[0].labels,
        [("networks".into(), "blue".into())]
    );
    assert_eq!(client.app(&app.id).await.unwrap().as_ref(), Some(app));
    let [pod] = listing.pods.as_slice() else {
        panic!("{:?}", listing.pods)
    };
    assert_eq!(pod.networks[0].name.as_deref(), Some("contrail"));
    assert_eq!(client.pod(&pod.id).await.unwrap().as_ref(), Some(pod));
    let missing = RunSpecId::parse("/none").unwrap();
    assert_eq!(client.app(&missing).await.unwrap(), None);
    assert_eq!(client.pod(&missing).await.unwrap(), None);
    assert!(!client.drops_events().await);
    marathon.stop(false).await.unwrap();
}
