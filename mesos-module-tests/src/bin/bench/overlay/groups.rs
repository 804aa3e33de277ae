//! Overlays that isolate groups: what the evaluation of a packet costs with many members.

use std::net::IpAddr;

use anyhow::Result;
use contrail_mesos_api::cluster::{Admission, Endpoint, Membership, Object};
use contrail_mesos_node::cluster_state::ClusterState;

use super::hosts::{Attached, FloorHost, Host as _, OVERLAY, OurHost, Pair, Switch, cluster, node};
use super::{Figures, Plan, Way, containers, take_turns, traffic_rows};
use crate::contrail_mesos::bench_network;
use crate::report::{Report, Row, at};

/// The hosts of the overlay, and of the floor.
const OURS: Pair = Pair(21, 22);
const FLOOR: Pair = Pair(31, 32);
/// The group of all containers.
const GROUP: &str = "bench";
/// The number of the first node with other members, and how many members a node has.
const FIRST_REMOTE: u16 = 100;
const MEMBERS_A_NODE: usize = 100;

pub(super) fn measure(plan: &Plan, report: &mut Report) -> Result<()> {
    let switch = Switch::start()?;
    let mut state = cluster(OURS.0.into(), [OURS.0.into(), OURS.1.into()])?;
    if let Some(overlay) = state.overlays.get_mut(OVERLAY) {
        overlay.groups = Some(Admission::default());
    }
    let ours = [
        OurHost::start(&switch, OURS.0, state.clone())?,
        OurHost::start(&switch, OURS.1, of(OURS.1, &state))?,
    ];
    let floor = [
        FloorHost::start(&switch, FLOOR.0, FLOOR.1)?,
        FloorHost::start(&switch, FLOOR.1, FLOOR.0)?,
    ];
    let ours_attached = [
        attach(&ours[0], "client")?,
        attach(&ours[0], "beside")?,
        attach(&ours[1], "remote")?,
    ];
    let floor_attached = containers(&floor[0], &floor[1])?;
    let owners = [OURS.0, OURS.0, OURS.1];
    for (number, attached) in owners.into_iter().zip(&ours_attached) {
        let place = &attached.place;
        let addresses = [Some(place.v4), place.v6].into_iter().flatten().collect();
        state.put(member(number.into(), &attached.container.id, addresses));
    }
    let mut levels = vec![];
    for members in &plan.members {
        add_members(&mut state, *members)?;
        for (host, number) in ours.iter().zip([OURS.0, OURS.1]) {
            let state = of(number, &state);
            host.run(move |host| host.apply(&state))?;
        }
        let [client, beside, remote] = &ours_attached;
        let [floor_client, floor_beside, floor_remote] = &floor_attached;
        let mut ways = [
            Way::new(client, remote)?,
            Way::new(floor_client, floor_remote)?,
            Way::new(client, beside)?,
            Way::new(floor_client, floor_beside)?,
        ];
        let figures = take_turns(&mut ways, plan)?;
        let none = Figures::default();
        let between = format!("between hosts, {members} members");
        traffic_rows(&between, &figures[0], &none, &figures[1], report);
        let on_one = format!("on one host, {members} members");
        traffic_rows(&on_one, &figures[2], &none, &figures[3], report);
        levels.push((*members, figures));
    }
    growth(&levels, report);
    let [client, beside, remote] = ours_attached;
    ours[0].detach(client)?;
    ours[0].detach(beside)?;
    ours[1].detach(remote)
}

/// The latency must not depend on the number of members. It is compared with the floor's, which was
/// measured at the same time.
fn growth(levels: &[(usize, Vec<Figures>)], report: &mut Report) {
    let (Some((few, small)), Some((many, large))) = (levels.first(), levels.last()) else {
        return;
    };
    if few == many {
        return;
    }
    let to_floor = |figures: &[Figures]| {
        let [ours, floor, ..] = figures else {
            return None;
        };
        Some(at(&ours.p50, 0.5)? / at(&floor.p50, 0.5)?)
    };
    let grown = to_floor(large)
        .zip(to_floor(small))
        .map(|(many, few)| many / few);
    let name = format!("overlay: growth of the latency, members {few} to {many}");
    report.add(
        Row::new(name, "x")
            .figures(grown, None, None)
            // The floor itself varies by a tenth between rounds.
            .goal("<= 1.1", |row| Some(row.ours? <= 1.1)),
    );
}

/// The state as this node knows it.
fn of(number: u8, state: &ClusterState) -> ClusterState {
    let mut state = state.clone();
    state.node = node(number.into()).name;
    state
}

fn attach(host: &OurHost, id: &str) -> Result<Attached> {
    let id = id.to_owned();
    let mut info = bench_network(None);
    info.groups = vec![GROUP.as_bytes().to_vec()];
    host.run(move |state| state.attach_to(&id, vec![info]))
}

fn member(number: u16, id: &str, addresses: Vec<IpAddr>) -> Object {
    Object::Endpoint(Endpoint {
        node: node(number).name,
        id: id.to_owned(),
        addresses,
        membership: Membership {
            groups: vec![GROUP.to_owned()],
            security_groups: vec![],
        },
    })
}

/// Adds nodes with members until there are so many.
fn add_members(state: &mut ClusterState, members: usize) -> Result<()> {
    let present: usize = state
        .endpoints
        .values()
        .map(|endpoints| endpoints.len())
        .sum();
    for index in present..members {
        let number = FIRST_REMOTE + u16::try_from(index / MEMBERS_A_NODE)?;
        state.put(Object::Node(node(number)));
        state.put(Object::EndpointsComplete {
            node: node(number).name,
        });
        let last = u8::try_from(index % MEMBERS_A_NODE + 2)?;
        let [high, low] = number.to_be_bytes();
        let address = IpAddr::from([9, high, low, last]);
        state.put(member(number, &format!("member-{index}"), vec![address]));
    }
    Ok(())
}
