//! Virtual DNS servers and their records.

use super::object::object;

object! {
    /// A virtual DNS server: a zone that Contrail's own DNS servers answer.
    VirtualDns = "virtual-DNS" in Some("domain"), {
        /// The zone.
        #[serde(rename = "virtual_DNS_data")]
        virtual_dns_data: Option<VirtualDnsData>,
    }
}

object! {
    /// The zone of a [`VirtualDns`]. The server requires the name, the order and the TTL.
    VirtualDnsData, {
        /// The name of the zone.
        domain_name: Option<String>,
        /// Whether vRouter agents add records of their interfaces.
        dynamic_records_from_client: Option<bool>,
        /// `fixed`, `random` or `round-robin`.
        record_order: Option<String>,
        /// The TTL of records without one.
        default_ttl_seconds: Option<i64>,
        /// Who is asked for other names: a server's address, or the name of another [`VirtualDns`].
        #[serde(rename = "next_virtual_DNS")]
        next_virtual_dns: Option<String>,
    }
}

object! {
    /// A record of a [`VirtualDns`].
    VirtualDnsRecord = "virtual-DNS-record" in Some("virtual-DNS"), {
        /// The record.
        #[serde(rename = "virtual_DNS_record_data")]
        virtual_dns_record_data: Option<DnsRecordData>,
    }
}

object! {
    /// The content of a [`VirtualDnsRecord`].
    DnsRecordData, {
        /// The name within the zone: letters, digits, hyphens and dots.
        record_name: Option<String>,
        /// `A`, `AAAA`, `CNAME`, `PTR`, `NS` or `MX`.
        record_type: Option<String>,
        /// `IN`.
        record_class: Option<String>,
        /// Such as an address.
        record_data: Option<String>,
        /// The TTL.
        record_ttl_seconds: Option<i64>,
    }
}
