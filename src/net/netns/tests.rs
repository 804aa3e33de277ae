use std::fs;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::unshare;

use super::super::testing::{inside, isolated, isolated_async, namespace};
use super::*;

/// A mount namespace of the test's own, for this thread and those that it starts.
fn own_mounts() {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none).unwrap();
}

#[test]
fn a_handle_keeps_a_namespace_until_it_is_let_go() {
    isolated(|| {
        own_mounts();
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
        let (one, two) = (namespace(), namespace());
        let path = directory.join("one");
        handles::pin(&one, &path).unwrap();
        handles::pin(&one, &path).unwrap();
        assert!(
            handles::pin(&two, &path).is_err(),
            "another's handle was taken over"
        );
        assert!(handles::is_handle(&path));
        assert!(same(of_path(&path).unwrap(), &one).unwrap());
        assert!(!same(&one, &two).unwrap());
        handles::unpin(&path).unwrap();
        handles::unpin(&path).unwrap();
        assert!(!path.exists());
        // A reboot leaves an ordinary file.
        fs::write(&path, "").unwrap();
        assert!(!handles::is_handle(&path));
        let error = of_path(&path).unwrap_err();
        assert!(error.to_string().contains("reboot"), "{error}");
        handles::unpin(&path).unwrap();
        assert!(!path.exists());
        fs::write(&path, "").unwrap();
        handles::pin(&two, &path).unwrap();
        handles::unpin(&path).unwrap();
        nix::mount::umount(&directory).unwrap();
    });
}

#[test]
fn a_handle_that_goes_also_goes_from_copies_of_the_mounts() {
    isolated(|| {
        own_mounts();
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("netns");
        handles::prepare_directory(&directory).unwrap();
        let path = directory.join("one");
        handles::pin(namespace(), &path).unwrap();
        let (ready, go) = (std::sync::mpsc::channel(), std::sync::mpsc::channel());
        let count = |path: &Path| {
            let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            mounts
                .lines()
                .filter(|line| line.contains(path.to_str().unwrap()))
                .count()
        };
        let seen = path.clone();
        let container = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            assert_eq!(count(&seen), 1);
            ready.0.send(()).unwrap();
            let () = go.1.recv().unwrap();
            count(&seen)
        });
        ready.1.recv().unwrap();
        handles::unpin(&path).unwrap();
        go.0.send(()).unwrap();
        assert_eq!(
            container.join().unwrap(),
            0,
            "a container keeps the namespace alive"
        );
        nix::mount::umount(&directory).unwrap();
    });
}

#[test]
fn only_the_thread_of_its_own_changes_its_namespaces() {
    isolated_async(|| async {
        let before = of_this_thread(Kind::Net).unwrap();
        let other = namespace();
        let there = run_in(other.try_clone().unwrap(), || {
            of_this_thread(Kind::Net).unwrap()
        });
        assert!(same(there.await.unwrap(), &other).unwrap());
        assert!(same(of_this_thread(Kind::Net).unwrap(), &before).unwrap());
        let uts = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWUTS).unwrap();
            of_this_thread(Kind::Uts).unwrap()
        });
        let uts = uts.join().unwrap();
        let host = nix::unistd::gethostname().unwrap();
        set_hostname(uts.try_clone().unwrap(), "box".to_owned())
            .await
            .unwrap();
        assert_eq!(nix::unistd::gethostname().unwrap(), host);
        let both = vec![(uts, Kind::Uts), (other.try_clone().unwrap(), Kind::Net)];
        let name = run_in_all(both, || nix::unistd::gethostname().unwrap()).await;
        assert_eq!(name.unwrap(), "box");
        let panicked = run_in(other, || panic!("on purpose")).await;
        assert!(matches!(panicked, Err(NetnsError::Died)));
        let error = of_pid(u32::MAX >> 1, Kind::Net).unwrap_err();
        assert!(
            error.to_string().contains("has its process ended"),
            "{error}"
        );
        assert!(inside(&before, || true));
    });
}
