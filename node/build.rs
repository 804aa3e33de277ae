//! Compiles the C++ shim of the modules of the mesos-agent.

#[path = "../cpp-shim/headers.rs"]
mod headers;
#[path = "../cpp-shim/build.rs"]
mod shim;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    shim::compile(&shim::Shim {
        workspace: "..",
        library: "contrail_mesos_node_shim",
        sources: &["anonymous.cpp"],
        without_headers: &[],
        with_headers: &[],
        macros: &[
            ("CONTRAIL_MESOS_LIBRARY", "node"),
            (
                "CONTRAIL_MESOS_BRIDGE",
                "\"contrail-mesos-node/src/module/bridge.rs.h\"",
            ),
        ],
    })
}
