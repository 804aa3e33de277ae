use std::fs;
use std::path::Path;

use nix::sched::unshare;

use super::*;
use crate::net::testing::{inside, isolated, isolated_async, namespace, unshare_mounts};

#[test]
fn pin_is_idempotent_and_refuses_another_namespace() {
    isolated(|| {
        unshare_mounts();
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("netns");
        handles::prepare_directory(&directory).unwrap();
        handles::prepare_directory(&directory).unwrap();
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let own: Vec<_> = mounts
            .lines()
            .filter(|line| line.contains(directory.to_str().unwrap()))
            .collect();
        assert!(own.len() == 1 && own[0].contains("shared:"), "{own:?}");
        let (first, second) = (namespace(), namespace());
        let path = directory.join("handle");
        handles::pin(&first, &path).unwrap();
        handles::pin(&first, &path).unwrap();
        assert!(
            handles::pin(&second, &path).is_err(),
            "the handle of another namespace was replaced"
        );
        assert!(handles::is_handle(&path));
        assert!(same(of_path(&path).unwrap(), &first).unwrap());
        assert!(!same(&first, &second).unwrap());
        handles::unpin(&path).unwrap();
        handles::unpin(&path).unwrap();
        assert!(!path.exists());
        // A reboot leaves a regular file.
        fs::write(&path, "").unwrap();
        assert!(!handles::is_handle(&path));
        let error = of_path(&path).unwrap_err();
        assert!(error.to_string().contains("reboot"), "{error}");
        handles::unpin(&path).unwrap();
        assert!(!path.exists());
        fs::write(&path, "").unwrap();
        handles::pin(&second, &path).unwrap();
        handles::unpin(&path).unwrap();
        nix::mount::umount(&directory).unwrap();
    });
}

#[test]
fn unpin_removes_handle_from_other_mount_namespaces() {
    isolated(|| {
        unshare_mounts();
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("netns");
        handles::prepare_directory(&directory).unwrap();
        let path = directory.join("handle");
        handles::pin(namespace(), &path).unwrap();
        let (ready_sender, ready) = std::sync::mpsc::channel();
        let (unpinned_sender, unpinned) = std::sync::mpsc::channel();
        let count = |path: &Path| {
            let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            mounts
                .lines()
                .filter(|line| line.contains(path.to_str().unwrap()))
                .count()
        };
        let handle = path.clone();
        let container = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            assert_eq!(count(&handle), 1);
            ready_sender.send(()).unwrap();
            let () = unpinned.recv().unwrap();
            count(&handle)
        });
        ready.recv().unwrap();
        handles::unpin(&path).unwrap();
        unpinned_sender.send(()).unwrap();
        assert_eq!(
            container.join().unwrap(),
            0,
            "the container's mount namespace keeps the handle"
        );
        nix::mount::umount(&directory).unwrap();
    });
}

#[test]
fn namespaces_of_the_host_are_recognised_from_within_another() {
    let machine = of_this_thread(Kind::Net).unwrap();
    isolated(move || {
        // As for an agent that is in a namespace itself.
        assert!(is_hosts(of_this_thread(Kind::Net).unwrap()).unwrap());
        let parent = format!("/proc/{}/ns/net", std::os::unix::process::parent_id());
        assert!(is_hosts(of_path(Path::new(&parent)).unwrap()).unwrap());
        assert!(is_hosts(&machine).unwrap());
        assert!(!is_hosts(namespace()).unwrap());
    });
}

#[test]
fn only_own_threads_change_their_namespaces() {
    isolated_async(|| async {
        let before = of_this_thread(Kind::Net).unwrap();
        let other = namespace();
        let entered = run_in(other.try_clone().unwrap(), || {
            of_this_thread(Kind::Net).unwrap()
        });
        assert!(same(entered.await.unwrap(), &other).unwrap());
        assert!(same(of_this_thread(Kind::Net).unwrap(), &before).unwrap());
        let uts = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWUTS).unwrap();
            of_this_thread(Kind::Uts).unwrap()
        });
        let uts = uts.join().unwrap();
        let host = nix::unistd::gethostname().unwrap();
        let threads = NamespaceThreads::new("test").unwrap();
        set_hostname(&threads, uts.try_clone().unwrap(), "box".to_owned())
            .await
            .unwrap();
        assert_eq!(nix::unistd::gethostname().unwrap(), host);
        let both = vec![(uts, Kind::Uts), (other.try_clone().unwrap(), Kind::Net)];
        let name = run_in_all(both, || nix::unistd::gethostname().unwrap()).await;
        assert_eq!(name.unwrap(), "box");
        let panicked = run_in(other, || panic!("on purpose")).await;
        assert!(matches!(panicked, Err(NetnsError::Panicked)));
        let error = of_pid(u32::MAX >> 1, Kind::Net).unwrap_err();
        assert!(
            error.to_string().contains("has its process ended"),
            "{error}"
        );
        assert!(inside(&before, || true));
    });
}

#[test]
fn namespace_threads_return_home_before_their_next_work() {
    isolated_async(|| async {
        let threads = NamespaceThreads::new("test").unwrap();
        let home = of_this_thread(Kind::Net).unwrap();
        let mut ids = std::collections::HashSet::new();
        for _ in 0..20 {
            let other = namespace();
            let expected = other.try_clone().unwrap();
            let work = move |thread: &mut OwnThread| {
                let before = of_this_thread(Kind::Net).unwrap();
                thread.enter(&other, Kind::Net).unwrap();
                let inside = of_this_thread(Kind::Net).unwrap();
                (std::thread::current().id(), before, inside)
            };
            let (id, before, inside) = threads.run(work).await.unwrap();
            assert!(same(&before, &home).unwrap());
            assert!(same(&inside, &expected).unwrap());
            ids.insert(id);
        }
        assert!(ids.len() < 20, "no thread was used twice");
        // A thread that panicked in a namespace is not used again.
        let other = namespace();
        let panicked = threads
            .run(move |thread| {
                thread.enter(&other, Kind::Net).unwrap();
                panic!("in a namespace");
            })
            .await;
        assert!(matches!(panicked, Err::<(), _>(NetnsError::Panicked)));
        let after = threads.run(|_| of_this_thread(Kind::Net).unwrap()).await;
        assert!(same(after.unwrap(), &home).unwrap());
    });
}
