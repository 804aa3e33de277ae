//! Compiles the messages of the DC/OS overlay modules, with their form in JSON.

/// Fields that are left out of the JSON if they are not set.
const OPTIONAL: [&str; 19] = [
    "BridgeInfo.ip",
    "BridgeInfo.ip6",
    "VxLANInfo.vtep_ip6",
    "VxLANInfo.vtep_mtu",
    "BackendInfo.vxlan",
    "OverlayInfo.subnet",
    "OverlayInfo.prefix",
    "OverlayInfo.subnet6",
    "OverlayInfo.prefix6",
    "AgentOverlayInfo.subnet",
    "AgentOverlayInfo.mesos_bridge",
    "AgentOverlayInfo.docker_bridge",
    "AgentOverlayInfo.state",
    "AgentOverlayInfo.subnet6",
    "AgentOverlayInfo.State.error",
    "AgentInfo.configuration_attempts",
    "NetworkConfig.vtep_subnet6",
    "NetworkConfig.vtep_mtu",
    "State.network",
];
/// Lists that are left out of the JSON if they are empty.
const REPEATED: [&str; 3] = [
    "AgentInfo.overlays",
    "NetworkConfig.overlays",
    "State.agents",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=../proto/overlay.proto");
    let files = protox::compile(["overlay.proto"], ["../proto"])?;
    let mut config = prost_build::Config::new();
    let package = ".mesos.modules.overlay";
    config.type_attribute(package, "#[derive(serde::Serialize)]");
    config.type_attribute(
        package,
        "#[cfg_attr(feature = \"schema\", derive(schemars::JsonSchema))]",
    );
    for field in OPTIONAL {
        let attribute = "#[serde(skip_serializing_if = \"Option::is_none\")]";
        config.field_attribute(format!("{package}.{field}"), attribute);
    }
    for field in REPEATED {
        let attribute = "#[serde(skip_serializing_if = \"Vec::is_empty\")]";
        config.field_attribute(format!("{package}.{field}"), attribute);
    }
    config.field_attribute(
        format!("{package}.AgentOverlayInfo.State.status"),
        "#[serde(serialize_with = \"crate::overlay_modules::serialize_status\")]\n\
         #[cfg_attr(feature = \"schema\", schemars(with = \"String\"))]",
    );
    config.field_attribute(
        format!("{package}.OverlayInfo.enabled"),
        "#[serde(serialize_with = \"crate::overlay_modules::serialize_enabled\")]\n\
         #[cfg_attr(feature = \"schema\", schemars(with = \"bool\"))]",
    );
    // Schemas have names without the package.
    for (message, name) in [
        ("State", "OverlayMasterState"),
        ("AgentOverlayInfo.State", "AgentOverlayState"),
    ] {
        let attribute = format!("#[cfg_attr(feature = \"schema\", schemars(rename = \"{name}\"))]");
        config.type_attribute(format!("{package}.{message}"), attribute);
    }
    config.compile_fds(files)?;
    Ok(())
}
