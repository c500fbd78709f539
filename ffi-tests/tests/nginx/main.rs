//! The nginx module, in Debian's nginx with its Lua module, on loopback: each test starts a server
//! of its own in a folder of its own, and looks at it from outside.
#![forbid(unsafe_code)]

mod breathing;
mod browser;
mod builds;
mod checking;
mod clock;
mod collecting;
mod config;
mod directives;
mod doors;
mod figures;
mod full;
mod helpers;
mod installing;
mod life;
mod limits;
mod load;
mod long;
mod lua;
mod page;
mod ports;
mod preloaded;
mod processes;
mod server;
mod settings;
mod shares;
mod status;
mod symbols;
mod trouble;
mod vms;
mod workers;
