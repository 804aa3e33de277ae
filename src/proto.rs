//! The Mesos messages that are exchanged with the agent, generated from `proto/`.
#![allow(missing_docs, clippy::pedantic, reason = "generated code")]

/// Package `mesos`.
pub mod mesos {
    include!(concat!(env!("OUT_DIR"), "/mesos.rs"));

    /// Package `mesos.slave`.
    pub mod slave {
        include!(concat!(env!("OUT_DIR"), "/mesos.slave.rs"));
    }
}

use contrail_mesos_api::container::ContainerId;

impl From<&mesos::ContainerId> for ContainerId {
    fn from(id: &mesos::ContainerId) -> Self {
        let mut values = vec![id.value.clone()];
        let mut parent = id.parent.as_deref();
        while let Some(id) = parent {
            values.push(id.value.clone());
            parent = id.parent.as_deref();
        }
        values.reverse();
        Self::from(values)
    }
}

impl From<&ContainerId> for mesos::ContainerId {
    fn from(id: &ContainerId) -> Self {
        let part = |parent: Option<Self>, value: &str| {
            Some(Self {
                value: value.to_owned(),
                parent: parent.map(Box::new),
            })
        };
        id.parts().fold(None, part).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_id_round_trips_through_its_message() {
        let id = ContainerId::top_level("a").nested("b").nested("c");
        let message = mesos::ContainerId::from(&id);
        assert_eq!(message.value, "c");
        assert_eq!(ContainerId::from(&message), id);
    }
}
