//! Every call of a create and of a delete fails, is lost, is late, or is the last of its manager.

use std::sync::Arc;

use tokio::time::{sleep, timeout};

use super::*;
use contrail_mesos_sim::vnc::{Effect, Fault};

/// More calls than a create or a delete makes.
const CALLS: u64 = 40;

fn cases() -> Vec<(&'static str, Fault)> {
    vec![
        ("500", Fault::new(Effect::Status(500, "oops".to_owned()))),
        (
            "500, done",
            Fault::new(Effect::Status(500, "oops".to_owned())).performed(),
        ),
        (
            "nonsense",
            Fault::new(Effect::InvalidBody("<html>".to_owned())).performed(),
        ),
        (
            "403",
            Fault::new(Effect::Status(403, "Permission Denied".to_owned())),
        ),
        (
            "503",
            Fault::new(Effect::Status(503, "no ZooKeeper".to_owned())),
        ),
        ("cut", Fault::new(Effect::Cut)),
        ("cut, done", Fault::new(Effect::Cut).performed()),
    ]
}

async fn put(
    containers: &Containers,
    vm: Uuid,
    request: &PortsRequest,
) -> Result<(), ManagerError> {
    containers.put("node1", vm, request).await.map(drop)
}

fn assert_complete(fixture: &Fixture, what: &str) {
    assert_eq!(fixture.added("virtual-machine"), 1, "{what}");
    assert_eq!(fixture.added("virtual-machine-interface"), 2, "{what}");
    assert_eq!(fixture.added("instance-ip"), 3, "{what}");
    assert_eq!(fixture.added("floating-ip"), 1, "{what}");
    let routers = fixture.server.objects("virtual-router");
    let links: usize = routers
        .iter()
        .map(|router| refs(router, "virtual_machine_refs").len())
        .sum();
    assert_eq!(links, 1, "{what}");
}

#[tokio::test]
async fn put_failing_once_at_any_call_completes_or_rolls_back() {
    let fixture = Fixture::new().await;
    let (vm, request) = rich(1);
    // A manager with empty caches, so that resolving names fails as well.
    let containers = fixture.other_manager();
    put(&containers, vm, &request).await.unwrap();
    let calls = containers.requests();
    containers.delete(Some("node1"), vm).await.unwrap();
    for (case, fault) in cases() {
        let mut failed = 0;
        for step in 0..calls {
            let what = format!("{case} at call {step}");
            let containers = fixture.other_manager();
            fixture.server.fault(fault.clone().times(step, 1));
            let made = put(&containers, vm, &request).await;
            fixture.server.clear_faults();
            match made {
                Ok(()) => assert_complete(&fixture, &what),
                Err(error) => {
                    failed += 1;
                    // Rolled back, or scheduled to be.
                    if containers.unfinished() == 0 {
                        fixture.assert_clean(&format!("{what}: {error}"));
                    }
                }
            }
            let again = if step % 2 == 0 {
                containers
            } else {
                fixture.other_manager()
            };
            put(&again, vm, &request).await.unwrap();
            assert_complete(&fixture, &what);
            assert_eq!(again.unfinished(), 0, "{what}");
            again.delete(Some("node1"), vm).await.unwrap();
            fixture.assert_clean(&what);
        }
        // The client retries transient errors itself.
        let passes = case.starts_with("503") || case.starts_with("cut");
        assert_eq!(failed == 0, passes, "{case}");
    }
}

#[tokio::test]
async fn delete_after_put_failing_for_good_leaves_nothing() {
    let fixture = Fixture::new().await;
    let (vm, request) = rich(1);
    for (case, fault) in cases() {
        for step in 0..CALLS {
            let what = format!("{case} from call {step} on");
            let containers = fixture.with_short_timeout();
            fixture.server.fault(fault.clone().times(step, u64::MAX));
            let made = put(&containers, vm, &request).await;
            fixture.server.clear_faults();
            // The agent gives up, and deletes at a manager with empty caches.
            fixture
                .other_manager()
                .delete(Some("node1"), vm)
                .await
                .unwrap();
            fixture.assert_clean(&what);
            if made.is_ok() {
                break;
            }
        }
    }
}

#[tokio::test]
async fn delete_after_failed_delete_leaves_nothing() {
    let fixture = Fixture::new().await;
    let (vm, request) = rich(1);
    put(&fixture.containers, vm, &request).await.unwrap();
    let before = fixture.containers.requests();
    fixture.containers.delete(Some("node1"), vm).await.unwrap();
    let calls = fixture.containers.requests() - before;
    for (case, fault) in cases() {
        for (lasting, containers) in [
            (1, fixture.other_manager()),
            (u64::MAX, fixture.with_short_timeout()),
        ] {
            for step in 0..calls {
                let what = format!("{case} at call {step}, {lasting} times");
                put(&fixture.containers, vm, &request).await.unwrap();
                fixture.server.fault(fault.clone().times(step, lasting));
                let deleted = containers.delete(Some("node1"), vm).await;
                fixture.server.clear_faults();
                if deleted.is_ok() {
                    fixture.assert_clean(&what);
                }
                fixture
                    .other_manager()
                    .delete(Some("node1"), vm)
                    .await
                    .unwrap();
                fixture.assert_clean(&what);
            }
        }
    }
}

#[tokio::test]
async fn manager_killed_at_any_call_is_replaced_by_another() {
    let fixture = Fixture::new().await;
    let (vm, request) = rich(1);
    for performed in [false, true] {
        for complete in [false, true] {
            let hang = Fault::new(Effect::Hang);
            let hang = if performed { hang.performed() } else { hang };
            let mut killed = 0;
            for step in 0..CALLS {
                let what = format!("killed at call {step}, {performed}, {complete}");
                fixture.server.fault(hang.clone().times(step, 1));
                let dying = fixture.other_manager();
                // Dropping the future in the middle of a call is like kill -9.
                let ended = timeout(Duration::from_millis(200), put(&dying, vm, &request)).await;
                drop(dying);
                fixture.server.clear_faults();
                let next = fixture.other_manager();
                if complete {
                    put(&next, vm, &request).await.unwrap();
                    assert_complete(&fixture, &what);
                }
                let Ok(done) = ended else {
                    killed += 1;
                    next.delete(Some("node1"), vm).await.unwrap();
                    fixture.assert_clean(&what);
                    continue;
                };
                done.unwrap();
                // Likewise in the middle of a delete.
                for step in 0..CALLS {
                    put(&next, vm, &request).await.unwrap();
                    fixture.server.fault(hang.clone().times(step, 1));
                    let dying = fixture.other_manager();
                    let deleted = dying.delete(Some("node1"), vm);
                    let ended = timeout(Duration::from_millis(200), deleted).await;
                    fixture.server.clear_faults();
                    if complete {
                        put(&next, vm, &request).await.unwrap();
                        assert_complete(&fixture, &what);
                    }
                    next.delete(Some("node1"), vm).await.unwrap();
                    fixture.assert_clean(&format!("delete {what}"));
                    if ended.is_ok() {
                        break;
                    }
                }
                break;
            }
            assert!(killed > 10, "{killed}");
        }
    }
}

#[tokio::test]
async fn put_repeated_after_late_call_creates_nothing_twice() {
    let fixture = Fixture::new().await;
    let (vm, request) = rich(1);
    let late = Duration::from_millis(100);
    for step in 0..CALLS {
        let what = format!("late at call {step}");
        let containers = fixture.with_short_timeout();
        fixture
            .server
            .fault(Fault::new(Effect::Delay(late)).times(step, 1));
        let made = put(&containers, vm, &request).await;
        fixture.server.clear_faults();
        put(&fixture.other_manager(), vm, &request).await.unwrap();
        sleep(late).await;
        assert_complete(&fixture, &what);
        fixture
            .other_manager()
            .delete(Some("node1"), vm)
            .await
            .unwrap();
        fixture.assert_clean(&what);
        if made.is_ok() {
            break;
        }
    }
}

#[tokio::test]
async fn rollback_is_retried_until_it_succeeds() {
    let fixture = Fixture::with(|config| config.rollback_delay = Duration::from_millis(50)).await;
    let (vm, request) = rich(1);
    // Long enough for the calls without a fault, on a busy machine too.
    let containers = fixture.with_call_timeout(Duration::from_secs(2));
    let (known, other) = plain(2);
    put(&containers, known, &other).await.unwrap();
    containers.delete(Some("node1"), known).await.unwrap();
    let rollbacks = tokio::spawn({
        let containers: Arc<Containers> = containers.clone();
        async move { containers.run_rollbacks().await }
    });
    let broken = Fault::new(Effect::Status(503, "no ZooKeeper".to_owned()));
    fixture.server.fault(broken.on("POST", "/instance-ips"));
    let error = put(&containers, vm, &request).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert_eq!(containers.unfinished(), 1);
    assert_eq!(fixture.added("virtual-machine"), 1);
    // Real time: virtual time would pass the client's deadlines as well.
    while containers.unfinished() > 0 {
        sleep(Duration::from_millis(50)).await;
    }
    fixture.assert_clean("rolled back");
    rollbacks.abort();
}

#[tokio::test]
async fn failed_put_of_complete_container_is_not_rolled_back() {
    let fixture = Fixture::with(|config| config.rollback_delay = Duration::from_millis(1)).await;
    let (vm, request) = rich(1);
    put(&fixture.containers, vm, &request).await.unwrap();
    for (case, fault) in cases() {
        for step in 0..CALLS {
            let containers = fixture.with_short_timeout();
            fixture.server.fault(fault.clone().times(step, u64::MAX));
            let made = put(&containers, vm, &request).await;
            fixture.server.clear_faults();
            let finished = async {
                while containers.unfinished() > 0 {
                    sleep(Duration::from_millis(2)).await;
                }
            };
            tokio::select! {
                () = finished => {}
                () = containers.run_rollbacks() => {}
            }
            assert_complete(&fixture, &format!("{case} from call {step} on"));
            if made.is_ok() {
                break;
            }
        }
    }
}
