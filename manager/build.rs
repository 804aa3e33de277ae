//! Compiles the C++ shim of the modules of the mesos-master.

#[path = "../cpp-shim/headers.rs"]
mod headers;
#[path = "../cpp-shim/build.rs"]
mod shim;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    shim::compile(&shim::Shim {
        workspace: "..",
        library: "contrail_mesos_manager_shim",
        sources: &["anonymous.cpp"],
        without_headers: &[],
        with_headers: &[],
        macros: &[
            ("CONTRAIL_MESOS_LIBRARY", "manager"),
            (
                "CONTRAIL_MESOS_BRIDGE",
                "\"contrail-mesos-manager/src/module/bridge.rs.h\"",
            ),
        ],
    })
}
