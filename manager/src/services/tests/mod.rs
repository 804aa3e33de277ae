//! Services of tasks.

mod changes;
mod fixture;
mod frameworks;
mod hostile;
mod names;
mod publishing;
mod random;
mod reference;
mod table;
