//! The policy by its parts, by its laws, by its promises, and on curves of demand in simulated
//! time.

mod credit;
mod curves;
mod holes;
mod laws;
mod parts;
mod promises;
mod recorded;
mod sim;
mod table;
