//! Load balancers: balancer, listener, pool, member and health monitor.

use uuid::Uuid;

use super::object::{Address, Ref, object};

object! {
    /// A load balancer: a virtual IP on an interface without a container.
    Loadbalancer = "loadbalancer" in Some("project"), {
        /// `native` or `opencontrail`.
        loadbalancer_provider: Option<String>,
        /// Its address and state.
        loadbalancer_properties: Option<LoadbalancerProperties>,
        /// The interface of the virtual IP.
        virtual_machine_interface_refs: Vec<Ref>,
        /// Its listeners; only with back references.
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
        /// The subnet of the virtual IP.
        vip_subnet_id: Option<Uuid>,
        /// The virtual IP.
        vip_address: Address,
        /// Whether it is enabled.
        admin_state: Option<bool>,
    }
}

object! {
    /// A port of the virtual IP.
    LoadbalancerListener = "loadbalancer-listener" in Some("project"), {
        /// Protocol and port.
        loadbalancer_listener_properties: Option<ListenerProperties>,
        /// Its balancer.
        loadbalancer_refs: Vec<Ref>,
        /// Its pool; only with back references.
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
        /// Maximum number of concurrent connections; −1 is unlimited.
        connection_limit: Option<i64>,
        /// Whether it is enabled.
        admin_state: Option<bool>,
    }
}

object! {
    /// The backend pool of a listener.
    LoadbalancerPool = "loadbalancer-pool" in Some("project"), {
        /// `native` or `opencontrail`.
        loadbalancer_pool_provider: Option<String>,
        /// Protocol and method.
        loadbalancer_pool_properties: Option<PoolProperties>,
        /// Its listener.
        loadbalancer_listener_refs: Vec<Ref>,
        /// Its health monitors.
        loadbalancer_healthmonitor_refs: Vec<Ref>,
        /// Its members; only with children.
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
        /// Whether it is enabled.
        admin_state: Option<bool>,
    }
}

object! {
    /// A member of a pool: address and port of a backend.
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
        /// Its weight.
        weight: Option<i64>,
        /// Whether it is enabled.
        admin_state: Option<bool>,
    }
}

object! {
    /// A health check for the members of a pool.
    LoadbalancerHealthmonitor = "loadbalancer-healthmonitor" in Some("project"), {
        /// The kind of check, and its timing.
        loadbalancer_healthmonitor_properties: Option<HealthmonitorProperties>,
    }
}

object! {
    /// Kind and timing of a [`LoadbalancerHealthmonitor`]'s checks.
    HealthmonitorProperties, {
        /// `PING`, `TCP`, `HTTP` or `HTTPS`.
        monitor_type: Option<String>,
        /// Seconds between two checks.
        delay: Option<i64>,
        /// Seconds until a check has failed.
        timeout: Option<i64>,
        /// Number of failed checks until the member is removed.
        max_retries: Option<i64>,
        /// The HTTP method, such as `GET`.
        http_method: Option<String>,
        /// The path, such as `/health`.
        url_path: Option<String>,
        /// The status codes of a healthy member, such as `200-399`.
        expected_codes: Option<String>,
        /// Whether it is enabled.
        admin_state: Option<bool>,
    }
}
