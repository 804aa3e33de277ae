//! Clients and backends on two hosts, each a namespace, joined by a bridge in a third one.

mod changes;
mod groups;
mod lab;
mod reach;
