//! How long an attach and a detach take beside the bare netlink requests and one fsynced file.
//! `cargo test --release --lib pace -- --ignored --nocapture`

use std::time::Instant;

use super::*;
use crate::net::addressing;
use crate::net::netlink::Request;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// The same requests, and one file, by one thread: nothing can be faster.
fn floor(directory: &std::path::Path, bridge: u32, number: usize, container: &OwnedFd) -> Duration {
    let name = format!("floor{number}");
    let start = Instant::now();
    let mut file = std::fs::File::create(directory.join(&name)).unwrap();
    file.write_all(&[b'x'; 400]).unwrap();
    file.sync_all().unwrap();
    let pair = links::VethPair {
        host: &name,
        inner: "eth0",
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1400,
        alias: "floor",
        bridge: Some(links::BridgePort {
            bridge,
            hairpin: false,
        }),
    };
    links::create_veth(
        &mut NetlinkSocket::route().unwrap(),
        &pair,
        container.as_fd(),
    )
    .unwrap();
    let taken = start.elapsed();
    // Inside there is another thread's start, which the floor does not count.
    taken
        + inside(container, move || {
            let start = Instant::now();
            let mut socket = NetlinkSocket::route().unwrap();
            let index = links::by_name(&mut socket, "eth0").unwrap().unwrap().index;
            let requests: [Request; 6] = [
                links::set_up("lo", None),
                links::set_up("eth0", None),
                addressing::add_address(index, "eth0", "10.9.0.2/16".parse().unwrap()),
                addressing::add_address(index, "eth0", "fd09::2/64".parse().unwrap()),
                addressing::add_route(
                    "0.0.0.0/0".parse().unwrap(),
                    "10.9.0.1".parse().unwrap(),
                    index,
                    None,
                ),
                addressing::add_route(
                    "::/0".parse().unwrap(),
                    "fd09::1".parse().unwrap(),
                    index,
                    None,
                ),
            ];
            socket.execute_all(&requests).unwrap();
            start.elapsed()
        })
}

#[test]
#[ignore = "measures; run it alone, in release"]
fn pace() {
    isolated_async(|| async {
        let host = Harness::new();
        let blue = network("blue", 1);
        let keeper = host.launch("keeper", &blue).await;
        let mut socket = NetlinkSocket::route().unwrap();
        let bridge = links::by_name(&mut socket, "cmb-blue")
            .unwrap()
            .unwrap()
            .index;
        let mut present = Vec::new();
        for count in [0, 500, 1000_u16] {
            while present.len() < usize::from(count) {
                let number = present.len();
                let mut request = request(&format!("p{number}"), &blue);
                request.ports = vec![port(
                    Protocol::Tcp,
                    10_000 + u16::try_from(number).unwrap(),
                    80,
                )];
                present.push(host.attach(&request).await.unwrap());
            }
            let mut ended = Vec::new();
            let floors = (0..100).map(|number| {
                // Namespaces end later: their end holds the kernel's locks for a long time.
                ended.push(namespace());
                let time = floor(host.state.path(), bridge, number, ended.last().unwrap());
                socket
                    .execute_all(&[links::delete(&format!("floor{number}"))])
                    .unwrap();
                time
            });
            let floors = median(floors.collect());
            for mapped in [false, true] {
                let (mut reserves, mut attaches, mut detaches) = (vec![], vec![], vec![]);
                for number in 0..100 {
                    let mut request = request(&format!("t{number}"), &blue);
                    if mapped {
                        request.ports = vec![port(Protocol::Tcp, 9000, 80)];
                    }
                    let container = namespace();
                    let start = Instant::now();
                    let intent = host.provider.reserve(&request).await.unwrap();
                    reserves.push(start.elapsed());
                    let mut file = std::fs::File::create(host.state.path().join("intent")).unwrap();
                    serde_json::to_writer(&file, &intent).unwrap();
                    file.flush().unwrap();
                    file.sync_all().unwrap();
                    host.provider
                        .attach(&intent, container.as_fd())
                        .await
                        .unwrap();
                    attaches.push(start.elapsed());
                    let start = Instant::now();
                    host.provider.detach(&intent).await.unwrap();
                    detaches.push(start.elapsed());
                    ended.push(container);
                }
                println!(
                    "{count} present, mapped port: {mapped}: reserve {:?}, reserve + fsynced intent + attach {:?}, floor {floors:?}, detach {:?}",
                    median(reserves),
                    median(attaches),
                    median(detaches)
                );
            }
        }
        let start = Instant::now();
        let detaches = present
            .iter()
            .map(|container| host.provider.detach(&container.intent));
        futures::future::join_all(detaches).await;
        println!("{} detaches at once: {:?}", present.len(), start.elapsed());
        host.detach(&keeper).await;
    });
}
