//! The documentation is right: links lead somewhere, and commands do what it says.

mod command;
mod coverage;
mod examples;
mod links;
mod operations;
mod page;
mod quick_start;
mod scratch;
