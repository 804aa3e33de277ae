//! Compiles our subset of the Mesos messages and the C++ shim.

#[path = "cpp-shim/headers.rs"]
mod headers;
#[path = "cpp-shim/build.rs"]
mod shim;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(["mesos.proto", "containerizer.proto"], ["proto"])?;
    prost_build::Config::new().compile_fds(files)?;
    shim::compile(&shim::Shim {
        workspace: ".",
        library: "contrail_mesos_shim",
        sources: &["shim.cpp"],
        without_headers: &["mesos_abi_imports.cpp"],
        with_headers: &["abi_check.cpp"],
        macros: &[],
    })
}
