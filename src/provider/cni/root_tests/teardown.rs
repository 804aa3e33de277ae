//! Teardowns that fail.

use super::*;

/// A plugin whose DEL fails until `$place/heal` exists.
const FAILING: &str = r#"echo $CNI_COMMAND >> $place/calls
[ $CNI_COMMAND = ADD ] || [ -e $place/heal ] || { echo '{"code":11,"msg":"not now"}'; exit 1; }
echo '{"cniVersion":"1.0.0","ips":[{"address":"10.9.0.9/24"}]}'"#;

fn failing(host: &TestHost) -> Network {
    host.script("failing", FAILING);
    host.network(&json!({ "name": "failing", "cniVersion": "1.0.0", "type": "failing" }))
}

fn dels(host: &TestHost) -> usize {
    host.read("calls").matches("DEL").count()
}

async fn await_clean(host: &TestHost) {
    while host.records() > 0 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    host.assert_clean();
}

#[test]
fn failed_teardown_is_retried_until_it_succeeds() {
    isolated_async(|| async {
        let host = TestHost::new();
        let network = failing(&host);
        let container = host.attach(&request("one", &network)).await.unwrap();
        let intent = container.intent.clone();
        host.detach(container).await;
        assert_eq!(
            host.pending_teardown(&intent).unwrap(),
            (
                1,
                "the CNI plugin failing failed to DEL: not now (code 11)".to_owned()
            )
        );
        // The id cannot be used again yet, and what is pending stays.
        let error = host.attach(&request("one", &network)).await;
        let error = error.map(|_| ()).unwrap_err();
        assert!(error.contains("is not completely detached"), "{error}");
        fs::write(host.path("heal"), "").unwrap();
        // The clock moves whenever nothing else is to be done.
        tokio::time::pause();
        await_clean(&host).await;
    });
}

#[test]
fn teardown_that_never_succeeds_is_given_up() {
    isolated_async(|| async {
        let host = TestHost::new();
        let network = failing(&host);
        let container = host.attach(&request("one", &network)).await.unwrap();
        tokio::time::pause();
        host.detach(container).await;
        await_clean(&host).await;
        assert_eq!(dels(&host), 10);
        // Nothing is left, and a detach of nothing has its own attempts.
        let container = host.attach(&request("one", &network)).await.unwrap();
        fs::write(host.path("heal"), "").unwrap();
        host.detach(container).await;
        host.assert_clean();
    });
}

#[test]
fn pending_teardown_is_continued_after_a_restart() {
    isolated_async(|| async {
        let host = TestHost::new();
        let network = failing(&host);
        let container = host.attach(&request("one", &network)).await.unwrap();
        let intent = container.intent.clone();
        host.detach(container).await;
        let host = host.restart();
        let known = HashSet::new();
        host.provider.sweep(&[], &known).await.unwrap();
        assert_eq!(host.pending_teardown(&intent).unwrap().0, 2);
        // A task retries it already.
        host.provider.sweep(&[], &known).await.unwrap();
        assert_eq!(host.pending_teardown(&intent).unwrap().0, 2);
        fs::write(host.path("heal"), "").unwrap();
        let host = host.restart();
        host.provider.sweep(&[], &known).await.unwrap();
        host.assert_clean();
        assert_eq!(dels(&host), 3);
    });
}

#[test]
fn record_without_container_is_named_and_removed() {
    isolated_async(|| async {
        let host = TestHost::new();
        let network = failing(&host);
        fs::write(host.path("heal"), "").unwrap();
        let container = host.attach(&request("one", &network)).await.unwrap();
        let intent = container.intent.clone();
        let nobody = || Ok(SweepScope::default());
        // While this process has it attached, it is none.
        assert_eq!(host.provider.strays(nobody).unwrap(), []);
        let host = host.restart();
        let known = || {
            Ok(SweepScope {
                intents: vec![intent.clone()],
                others: HashSet::new(),
            })
        };
        assert_eq!(host.provider.strays(known).unwrap(), []);
        let strays = host.provider.strays(nobody).unwrap();
        assert_eq!(strays.len(), 1);
        assert_eq!(strays[0].kind, StrayKind::CniRecord);
        assert!(strays[0].names(&intent.container.file_name()));
        let StrayOrigin::Cni(stray) = strays[0].origin.clone() else {
            panic!("a stray of another provider");
        };
        host.provider
            .remove_strays(vec![stray], nobody)
            .await
            .unwrap();
        assert_eq!(host.provider.strays(nobody).unwrap(), []);
        assert_eq!(dels(&host), 1);
        host.assert_clean();
    });
}
