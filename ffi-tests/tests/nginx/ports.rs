//! Ports for servers: no two tests get the same one, whichever test programs run at a time.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

const IN_BLOCK: u16 = 1000;
/// Where a test program holds its block. No server listens on this address.
const HOLDERS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 77);

/// A port of the loopback interface that is this program's until the program ends.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = block();
    let next = || first + NEXT.fetch_add(1, Ordering::Relaxed) % IN_BLOCK;
    let mut ports = (0..IN_BLOCK).map(|_| next());
    ports.find(|port| is_free(*port)).expect("a block has free ports")
}

/// The first port of this program's block. A socket that stays bound to the port on the address of
/// the holders keeps other test programs out of the block, and goes with the program.
fn block() -> u16 {
    static BLOCK: OnceLock<(u16, TcpListener)> = OnceLock::new();
    let hold = |first| Some((first, TcpListener::bind((HOLDERS, first)).ok()?));
    BLOCK.get_or_init(|| blocks().find_map(hold).expect("there are free blocks")).0
}

/// Blocks outside of the ports that the kernel gives to sockets that name none.
fn blocks() -> impl Iterator<Item = u16> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let range: Vec<u16> =
        range.unwrap_or_default().split_whitespace().flat_map(str::parse).collect();
    let (low, high) = (range[0], range[1]);
    (10..65).map(|thousand| thousand * IN_BLOCK).filter(move |first| {
        let last = first + IN_BLOCK - 1;
        last < low || *first > high
    })
}

/// Whether nobody listens there. Nothing is bound for that: a process that another thread starts
/// meanwhile would have the socket too, until it runs its program.
fn is_free(port: u16) -> bool {
    let address = (Ipv4Addr::LOCALHOST, port).into();
    let answer = TcpStream::connect_timeout(&address, Duration::from_secs(1));
    answer.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

#[test]
fn ports_are_held_against_other_test_programs() {
    let first = block();
    assert!(TcpListener::bind((HOLDERS, first)).is_err(), "nobody holds {first}");
    let ports: Vec<u16> = (0..20).map(|_| free_port()).collect();
    for (place, port) in ports.iter().enumerate() {
        assert!((first..first + IN_BLOCK).contains(port) && !ports[..place].contains(port));
        TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).expect("a server can have it");
    }
}
