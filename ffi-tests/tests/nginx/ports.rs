//! Ports for servers: no two tests get the same one, whichever test programs run at a time.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

const IN_BLOCK: u16 = 1000;
/// Where a test program holds its block. No server listens on this address.
const HOLDERS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 77);

/// What the kernel does unless it is told otherwise: the ports for sockets that name none.
const USUAL: (u16, u16) = (32768, 60999);

/// A port of the loopback interface that is this program's until the program ends.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let next = |first| first + NEXT.fetch_add(1, Ordering::Relaxed) % IN_BLOCK;
    let is_ours = |port: &u16| is_free(*port) && (!is_of(kernels(), *port) || can_bind(*port));
    let in_block = |first| (0..IN_BLOCK).map(|_| next(first)).find(is_ours);
    block().and_then(in_block).unwrap_or_else(any)
}

/// The first port of this program's block. A socket that stays bound to the port on the address of
/// the holders keeps other test programs out of the block, and goes with the program.
fn block() -> Option<u16> {
    static BLOCK: OnceLock<Option<(u16, TcpListener)>> = OnceLock::new();
    let hold = |first| Some((first, TcpListener::bind((HOLDERS, first)).ok()?));
    let block = BLOCK.get_or_init(|| blocks(kernels()).into_iter().find_map(hold));
    block.as_ref().map(|(first, _)| *first)
}

/// The ports that the kernel gives to sockets that name none, the first and the last.
fn kernels() -> (u16, u16) {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    range_of(&range.unwrap_or_default())
}

fn range_of(text: &str) -> (u16, u16) {
    let numbers: Vec<u16> = text.split_whitespace().flat_map(str::parse).collect();
    if let [low, high] = numbers[..] { (low, high) } else { USUAL }
}

fn is_of((low, high): (u16, u16), port: u16) -> bool {
    (low..=high).contains(&port)
}

/// Blocks outside of the ports that the kernel gives away, and then the others: the kernel may
/// have been given all ports.
fn blocks(kernels: (u16, u16)) -> Vec<u16> {
    let all = (10..65).map(|thousand| thousand * IN_BLOCK);
    let is_outside = |first: &u16| !(*first..first + IN_BLOCK).any(|port| is_of(kernels, port));
    let (outside, inside): (Vec<u16>, Vec<u16>) = all.partition(is_outside);
    [outside, inside].concat()
}

/// A port that is free now: there is no block to be had.
fn any() -> u16 {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    socket.local_addr().expect("an address").port()
}

/// Whether a server can listen there. A port that the kernel gives away may be a client's, which
/// answers no one.
fn can_bind(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Whether nobody listens there. Nothing is bound for that, where that can be helped: a process that
/// another thread starts meanwhile would have the socket too, until it runs its program.
fn is_free(port: u16) -> bool {
    let address = (Ipv4Addr::LOCALHOST, port).into();
    let answer = TcpStream::connect_timeout(&address, Duration::from_secs(1));
    answer.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

#[test]
fn ports_are_held_against_other_test_programs() {
    let first = block().expect("a block");
    assert!(TcpListener::bind((HOLDERS, first)).is_err(), "nobody holds {first}");
    let ports: Vec<u16> = (0..20).map(|_| free_port()).collect();
    for (place, port) in ports.iter().enumerate() {
        assert!((first..first + IN_BLOCK).contains(port) && !ports[..place].contains(port));
        TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).expect("a server can have it");
    }
}

#[test]
fn there_are_blocks_whichever_ports_the_kernel_gives_away() {
    for text in ["", "banana", "32768", "1024\t65535\n", "32768\t60999\n", "1 1"] {
        let range = range_of(text);
        let blocks = blocks(range);
        assert_eq!(blocks.len(), 55, "{text}");
        let touches = |first: u16| (first..first + IN_BLOCK).any(|port| is_of(range, port));
        let inside: Vec<bool> = blocks.iter().map(|first| touches(*first)).collect();
        assert!(inside.is_sorted(), "{text}: the blocks outside come first: {blocks:?}");
    }
    assert!(blocks(range_of("1024 65535")).iter().all(|first| is_of((1024, 65535), *first)));
    assert!(!is_of(range_of("32768 60999"), blocks(USUAL)[0]));
    assert!(can_bind(any()));
}
