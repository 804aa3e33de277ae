//! Concurrent and cancelled operations.

use std::task::{Context, Poll, Waker};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::*;

#[test]
fn concurrent_attach_and_detach_of_one_bridge_succeed() {
    isolated_async(|| async {
        let host = TestHost::new();
        let mut networks = [network("blue", 1), network("red", 2)];
        bridge_of(&mut networks[1]).masquerade = false;
        // With few containers at a time, the bridges are created and removed often.
        let lifecycles = (0..60_u16).map(|number| {
            let (host, networks) = (&host, &networks);
            async move {
                for round in 0..4_u16 {
                    let network = &networks[usize::from((number + round) % 2)];
                    let mut request = request(&format!("c{number}-{round}"), network);
                    if number % 3 == 0 {
                        request.ports = vec![port(Protocol::Tcp, 20_000 + number, 80)];
                    }
                    let container = host.attach(&request).await.unwrap();
                    if number % 4 == 0 {
                        let gateway = SocketAddr::new(container.intent.gateways[0], 1);
                        let refused = container.inside(move || query_tcp(gateway)).unwrap_err();
                        assert!(refused.contains("refused"), "{refused}");
                    }
                    host.detach(&container).await;
                }
            }
        });
        futures::future::join_all(lifecycles).await;
        host.assert_clean();
    });
}

#[test]
fn cancelled_attach_is_undone_by_detach() {
    isolated_async(|| async {
        let host = TestHost::new();
        let blue = network("blue", 1);
        for round in 0..20 {
            let intent = host
                .reserve(&request(&format!("c{round}"), &blue))
                .await
                .unwrap();
            let container = namespace();
            {
                let mut attach = Box::pin(host.provider.attach(&intent, container.as_fd()));
                let mut context = Context::from_waker(Waker::noop());
                assert!(matches!(attach.as_mut().poll(&mut context), Poll::Pending));
                if round % 2 == 0 {
                    std::thread::sleep(Duration::from_micros(150 * round));
                }
            }
            host.provider.detach(&intent).await.unwrap();
            assert_eq!(link_names(), Vec::<String>::new());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        host.assert_clean();
    });
}

#[test]
fn full_or_read_only_state_directory_is_reported() {
    isolated_async(|| async {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none).unwrap();
        let state = tempfile::tempdir().unwrap();
        let options = Some("size=8k,nr_inodes=6");
        mount(
            Some("tmpfs"),
            state.path(),
            Some("tmpfs"),
            MsFlags::empty(),
            options,
        )
        .unwrap();
        let host = TestHost::at(state);
        let blue = network("blue", 1);
        let one = host.launch("one", &blue).await;
        let error = host.attach(&request("two", &blue)).await.err().unwrap();
        assert!(error.contains("is it full or read-only?"), "{error}");
        let path = host.state.path();
        let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(none, path, none, read_only, none).unwrap();
        let error = host.attach(&request("three", &blue)).await.err().unwrap();
        assert!(error.contains("is it full or read-only?"), "{error}");
        let errors = host.provider.detach(&one.intent).await.unwrap_err();
        assert!(
            errors.to_string().contains("release the address"),
            "{errors:?}"
        );
        mount(none, path, none, MsFlags::MS_REMOUNT, none).unwrap();
        host.detach(&one).await;
        host.assert_clean();
        nix::mount::umount(path).unwrap();
    });
}
