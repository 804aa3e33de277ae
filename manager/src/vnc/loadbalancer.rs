//! The load balancer family: balancer, listener, pool, members, health monitor.

use uuid::Uuid;

use super::object::{Address, Ref, object};

object! {
    /// A virtual address, on an interface without a container.
    Loadbalancer = "loadbalancer" in Some("project"), {
        /// `native` or `opencontrail`.
        loadbalancer_provider: Option<String>,
        /// Its address and state.
        loadbalancer_properties: Option<LoadbalancerProperties>,
        /// The interface of the virtual address.
        virtual_machine_interface_refs: Vec<Ref>,
        /// Its listeners, when what refers to it was asked for.
        #[serde(skip_serializing)]
        loadbalancer_listener_back_refs: Vec<Ref>,
    }
}

object! {
    /// Address and state of a [`Loadbalancer`].
    LoadbalancerProperties, {
        /// `ACTIVE`.
        provisioning_status: Option<String>,
        /// `ONLINE`.
        operating_status: Option<String>,
        /// The subnet of the virtual address.
        vip_subnet_id: Option<Uuid>,
        /// The virtual address.
        vip_address: Address,
        /// Whether it is on.
        admin_state: Option<bool>,
    }
}

object! {
    /// A port of the virtual address.
    LoadbalancerListener = "loadbalancer-listener" in Some("project"), {
        /// Protocol and port.
        loadbalancer_listener_properties: Option<ListenerProperties>,
        /// Its balancer.
        loadbalancer_refs: Vec<Ref>,
        /// Its pool, when what refers to it was asked for.
        #[serde(skip_serializing)]
        loadbalancer_pool_back_refs: Vec<Ref>,
    }
}

object! {
    /// Protocol and port of a [`LoadbalancerListener`].
    ListenerProperties, {
        /// `TCP`, `UDP`, `HTTP`, …
        protocol: Option<String>,
        /// The port.
        protocol_port: Option<u16>,
        /// The most connections at a time; −1 is any.
        connection_limit: Option<i64>,
        /// Whether it is on.
        admin_state: Option<bool>,
    }
}

object! {
    /// Where the connections of a listener go.
    LoadbalancerPool = "loadbalancer-pool" in Some("project"), {
        /// `native` or `opencontrail`.
        loadbalancer_pool_provider: Option<String>,
        /// Protocol and method.
        loadbalancer_pool_properties: Option<PoolProperties>,
        /// Its listener.
        loadbalancer_listener_refs: Vec<Ref>,
        /// How its members are watched.
        loadbalancer_healthmonitor_refs: Vec<Ref>,
        /// Its members, when children were asked for.
        #[serde(skip_serializing)]
        loadbalancer_members: Vec<Ref>,
    }
}

object! {
    /// Protocol and method of a [`LoadbalancerPool`].
    PoolProperties, {
        /// `TCP`, `UDP`, `HTTP`, …
        protocol: Option<String>,
        /// `ROUND_ROBIN`, `LEAST_CONNECTIONS` or `SOURCE_IP`.
        loadbalancer_method: Option<String>,
        /// The subnet of the members.
        subnet_id: Option<Uuid>,
        /// Whether it is on.
        admin_state: Option<bool>,
    }
}

object! {
    /// An address and port behind a pool.
    LoadbalancerMember = "loadbalancer-member" in Some("loadbalancer-pool"), {
        /// The address and port.
        loadbalancer_member_properties: Option<MemberProperties>,
    }
}

object! {
    /// Address and port of a [`LoadbalancerMember`].
    MemberProperties, {
        /// The address.
        address: Address,
        /// The port.
        protocol_port: Option<u16>,
        /// Its share.
        weight: Option<i64>,
        /// Whether it is on.
        admin_state: Option<bool>,
    }
}

object! {
    /// How the members of a pool are watched.
    LoadbalancerHealthmonitor = "loadbalancer-healthmonitor" in Some("project"), {
        /// What is asked, and how often.
        loadbalancer_healthmonitor_properties: Option<HealthmonitorProperties>,
    }
}

object! {
    /// What a [`LoadbalancerHealthmonitor`] asks, and how often.
    HealthmonitorProperties, {
        /// `PING`, `TCP`, `HTTP` or `HTTPS`.
        monitor_type: Option<String>,
        /// Seconds between two questions.
        delay: Option<i64>,
        /// Seconds until an answer is late.
        timeout: Option<i64>,
        /// Late answers until the member is out.
        max_retries: Option<i64>,
        /// `GET`.
        http_method: Option<String>,
        /// Such as `/health`.
        url_path: Option<String>,
        /// Such as `200-399`.
        expected_codes: Option<String>,
        /// Whether it is on.
        admin_state: Option<bool>,
    }
}
