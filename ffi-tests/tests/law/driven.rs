//! A real program that does commands from the harness while its memory is read.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::course::{Course, Sample};
use crate::ports::free_port;
use crate::processes::{Held, held_mb, processes};

/// Time between two looks at the program's memory.
const EVERY: Duration = Duration::from_millis(50);
/// For a program to start, to answer and to end, on a machine that is busy with other things.
const START: Duration = Duration::from_secs(60);
const ANSWER: Duration = Duration::from_secs(120);
const END: Duration = Duration::from_secs(20);

/// How commands reach a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Names in DNS queries.
    Dns,
    /// Paths in HTTP requests.
    Http,
    /// Lines on a connection that the program makes.
    Lines,
    /// Bodies of the answers to HTTP requests that the program makes.
    Bodies,
}

/// The harness's end before the program runs: a port that is free, or one that it connects to.
pub struct Port {
    way: Way,
    listener: Option<TcpListener>,
    pub number: u16,
}

impl Port {
    pub fn new(way: Way) -> Port {
        let listener = matches!(way, Way::Lines | Way::Bodies).then(|| {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            listener.set_nonblocking(true).expect("a socket");
            listener
        });
        let own = listener.as_ref().map(|listener| listener.local_addr().expect("bound").port());
        Port { way, listener, number: own.unwrap_or_else(free_port) }
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.number))
    }

    /// A connection with a program that has just started. An error: not yet.
    fn connect(&self) -> io::Result<Link> {
        match self.way {
            Way::Dns => {
                let socket = UdpSocket::bind("127.0.0.1:0")?;
                socket.connect(self.address())?;
                socket.set_read_timeout(Some(Duration::from_millis(500)))?;
                ask(&socket, "ready")?;
                socket.set_read_timeout(Some(ANSWER))?;
                Ok(Link::Dns(socket))
            }
            Way::Http => {
                let stream = TcpStream::connect(self.address())?;
                stream.set_read_timeout(Some(ANSWER))?;
                stream.set_nodelay(true)?;
                Ok(Link::Http(BufReader::new(stream)))
            }
            Way::Lines | Way::Bodies => {
                let listener = self.listener.as_ref().expect("the program connects");
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(ANSWER))?;
                stream.set_nodelay(true)?;
                let mut stream = BufReader::new(stream);
                if self.way == Way::Lines {
                    return Ok(Link::Lines(stream));
                }
                // wrk first looks whether the server is there.
                read_head(&mut stream)?;
                Ok(Link::Bodies(stream))
            }
        }
    }
}

/// A connection over which each command is acknowledged when the program has done it.
enum Link {
    Dns(UdpSocket),
    Http(BufReader<TcpStream>),
    Lines(BufReader<TcpStream>),
    Bodies(BufReader<TcpStream>),
}

impl Link {
    fn command(&mut self, command: &str) -> io::Result<()> {
        match self {
            Link::Dns(socket) => ask(socket, command),
            Link::Http(stream) => {
                let request = format!("GET /{command} HTTP/1.1\r\nHost: law\r\n\r\n");
                stream.get_mut().write_all(request.as_bytes())?;
                let head = read_head(stream)?;
                done(head.starts_with("HTTP/1.1 200"), &head)?;
                // One chunk, "done", and an empty one.
                let mut body = [0; 15];
                stream.read_exact(&mut body)?;
                done(&body == b"5\r\ndone\n\r\n0\r\n\r\n", &String::from_utf8_lossy(&body))
            }
            Link::Lines(stream) => {
                stream.get_mut().write_all(format!("{command}\n").as_bytes())?;
                let mut line = String::new();
                stream.read_line(&mut line)?;
                done(line == "done\n", &line)
            }
            Link::Bodies(stream) => {
                let length = command.len();
                let answer =
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{command}");
                stream.get_mut().write_all(answer.as_bytes())?;
                read_head(stream).map(drop)
            }
        }
    }
}

fn done(is_done: bool, answer: &str) -> io::Result<()> {
    if is_done { Ok(()) } else { Err(io::Error::other(format!("the answer is {answer:?}"))) }
}

/// Reads an HTTP head to its empty line.
fn read_head(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(head)
}

/// Asks for a name's address and waits for the answer, whatever it is.
fn ask(socket: &UdpSocket, command: &str) -> io::Result<()> {
    // An id, "recursion desired", one question.
    let mut query = vec![0x4c, 0x57, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in [command, "law", "net", ""] {
        query.push(label.len() as u8);
        query.extend_from_slice(label.as_bytes());
    }
    // A, IN.
    query.extend_from_slice(&[0, 1, 0, 1]);
    socket.send(&query)?;
    let mut answer = [0; 512];
    loop {
        let length = socket.recv(&mut answer)?;
        // An answer to an earlier try has another name.
        if answer[..length].get(12..query.len() - 4) == Some(&query[12..query.len() - 4]) {
            return Ok(());
        }
    }
}

/// A started program. Whatever happens, it ends with this value.
struct Running {
    child: Child,
}

impl Running {
    fn start(command: &mut Command, log: &Path) -> Running {
        let file = File::create(log).expect("a log");
        command.stdin(Stdio::null()).stderr(file.try_clone().expect("a log")).stdout(file);
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Running { child }
    }

    fn runs(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_none()
    }

    /// Asks the program to end, and waits.
    fn end(mut self) {
        signal("TERM", &[self.child.id()]);
        self.ends_within(END);
    }

    fn ends_within(&mut self, time: Duration) {
        let began = Instant::now();
        while self.runs() && began.elapsed() < time {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.runs() {
            signal("KILL", &processes(self.child.id()));
        }
        let _ = self.child.wait();
    }
}

fn signal(name: &str, processes: &[u32]) {
    let numbers = processes.iter().map(u32::to_string);
    // One that has ended meanwhile is no failure.
    let _ = Command::new("kill").args(["-s", name]).args(numbers).stderr(Stdio::null()).status();
}

/// One run of a program, in both of the kernel's figures.
pub struct Run {
    pub pss: Course,
    pub rss: Course,
}

/// How much a program does, and how long it then has nothing to do.
#[derive(Clone, Copy)]
pub struct Load {
    pub commands: u32,
    pub idle: Duration,
}

/// The load is divided into phases, for two runs to be compared at the same work.
const PARTS: u32 = 10;
/// From the end of the collection to the full reclaim.
const REST: Duration = Duration::from_secs(4);

/// Runs a program through a load, idleness with what is left, a collection, rest and a full
/// reclaim.
pub fn drive(command: &mut Command, port: &Port, load: Load, log: &Path) -> Run {
    let mut running = Running::start(command, log);
    let failed = |what: &str, error: &dyn Display| -> ! {
        let said = fs::read_to_string(log).unwrap_or_default();
        panic!("{command:?}: {what}: {error}\n{said}")
    };
    let started = Instant::now();
    let mut link = loop {
        match port.connect() {
            Ok(link) => break link,
            Err(error) if !running.runs() => failed("ended at once", &error),
            Err(error) if started.elapsed() > START => failed("no connection", &error),
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    };
    let began = Instant::now();
    let ends = AtomicBool::new(false);
    let process = running.child.id();
    thread::scope(|scope| {
        let sampler = scope.spawn(|| samples(process, began, &ends));
        let phases = commands(&mut link, load, began);
        ends.store(true, Ordering::Relaxed);
        let (pss, rss) = sampler.join().expect("reading does not fail");
        let phases = phases.unwrap_or_else(|error| {
            // A program that is ending says why, until it has ended.
            running.ends_within(END);
            failed("a command failed", &error)
        });
        if !running.runs() {
            failed("it ended early", &"");
        }
        running.end();
        Run {
            pss: Course { phases: phases.clone(), samples: pss },
            rss: Course { phases, samples: rss },
        }
    })
}

/// What a program holds until `ends`: proportional and resident.
fn samples(process: u32, began: Instant, ends: &AtomicBool) -> (Vec<Sample>, Vec<Sample>) {
    let (mut pss, mut rss) = (Vec::new(), Vec::new());
    while !ends.load(Ordering::Relaxed) {
        let at_s = began.elapsed().as_secs_f64();
        let held: Vec<Held> = processes(process).into_iter().filter_map(held_mb).collect();
        pss.push(Sample { at_s, mb: held.iter().map(|held| held.pss_mb).sum() });
        rss.push(Sample { at_s, mb: held.iter().map(|held| held.rss_mb).sum() });
        thread::sleep(EVERY);
    }
    (pss, rss)
}

/// Sends the commands, and says when each phase began.
fn commands(link: &mut Link, load: Load, began: Instant) -> io::Result<Vec<(f64, String)>> {
    let mut phases = Vec::new();
    let mut phase = |name: &str| phases.push((began.elapsed().as_secs_f64(), name.to_owned()));
    for part in 0..PARTS {
        phase(&format!("load {part}"));
        for number in load.commands * part / PARTS..load.commands * (part + 1) / PARTS {
            link.command(&format!("load-{number}"))?;
        }
    }
    phase("idle");
    thread::sleep(load.idle);
    phase("collect");
    link.command("collect")?;
    phase("rest");
    thread::sleep(REST);
    phase("reclaim");
    link.command("reclaim")?;
    thread::sleep(Duration::from_millis(200));
    phase("end");
    thread::sleep(2 * EVERY);
    Ok(phases)
}
