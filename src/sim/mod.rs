//! What `contrail-mesos-sim` is made of: stand-ins for the services around us that no test machine
//! has. Each is faithful where we touch it, and says in its module what it leaves out.

pub mod marathon;
