//! Compiles our subset of the Mesos messages and, for the module library, the C++ shim.

#[cfg(feature = "module")]
#[path = "cpp-shim/build.rs"]
mod shim;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(["mesos.proto", "containerizer.proto"], ["proto"])?;
    prost_build::Config::new().compile_fds(files)?;
    #[cfg(feature = "module")]
    shim::compile()?;
    Ok(())
}
