//! A TCP proxy that can stall, delay and cut connections.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, Weak},
    thread::{self, sleep},
    time::Duration,
};

/// Forwards connections to a port of this machine.
pub struct Proxy {
    pub port: u16,
    link: Arc<Link>,
}

/// The direction of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    ToServer,
    ToClient,
}

#[derive(Default)]
struct Link {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    target: u16,
    closed: bool,
    losing: bool,
    stalled: Vec<Direction>,
    stalled_from: Vec<String>,
    delay: Duration,
    connections: usize,
    clients: Vec<Weak<TcpStream>>,
}

impl Proxy {
    pub fn to(target: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let link = Arc::new(Link { state: Mutex::new(State { target, ..State::default() }), ..Link::default() });
        let accepting = Arc::clone(&link);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let target = {
                    let mut state = accepting.state();
                    if state.closed {
                        return;
                    }
                    state.connections += 1;
                    state.target
                };
                let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else { continue };
                let (client, server) = (Arc::new(client), Arc::new(server));
                {
                    let mut state = accepting.state();
                    state.clients.retain(|client| client.strong_count() > 0);
                    state.clients.push(Arc::downgrade(&client));
                }
                let ways = [(&client, &server, Direction::ToServer), (&server, &client, Direction::ToClient)];
                for (from, to, direction) in ways {
                    let (from, to, link) = (Arc::clone(from), Arc::clone(to), Arc::clone(&accepting));
                    thread::spawn(move || forward(&from, &to, direction, &link));
                }
            }
        });
        Self { port, link }
    }

    /// Holds bytes in this direction back from now on, or forwards them again. Held bytes are forwarded even if their
    /// sender has closed the connection since.
    pub fn stall(&self, direction: Direction, on: bool) {
        self.link.change(|state| {
            state.stalled_from.clear();
            state.stalled.retain(|stalled| *stalled != direction);
            state.stalled.extend(on.then_some(direction));
        });
    }

    /// Holds bytes to the server back from the first ones on that contain all of these texts.
    pub fn stall_from(&self, contained: &[&str]) {
        self.link.change(|state| state.stalled_from = contained.iter().map(|text| (*text).to_owned()).collect());
    }

    /// Holds bytes in both directions back, or forwards them again.
    pub fn blackhole(&self, on: bool) {
        self.stall(Direction::ToServer, on);
        self.stall(Direction::ToClient, on);
    }

    /// Delays all bytes by at least this time.
    pub fn delay(&self, delay: Duration) {
        self.link.change(|state| state.delay = delay);
    }

    /// Closes all connections of clients. Bytes that they sent before are still forwarded.
    pub fn cut(&self) {
        for client in self.link.state().clients.drain(..).filter_map(|client| client.upgrade()) {
            let _ = client.shutdown(Shutdown::Both);
        }
    }

    /// Closes all connections of clients, and forwards new ones to another port.
    pub fn redirect(&self, target: u16) {
        self.link.change(|state| state.target = target);
        self.cut();
    }

    /// Drops the next response, and closes its connection.
    pub fn drop_next_response(&self) {
        self.link.change(|state| state.losing = true);
    }

    /// Returns the number of connections so far.
    pub fn connections(&self) -> usize {
        self.link.state().connections
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.link.change(|state| state.closed = true);
        self.cut();
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Link {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    /// Waits until bytes in this direction are forwarded.
    fn wait(&self, direction: Direction) -> MutexGuard<'_, State> {
        let is_stalled = |state: &mut State| state.stalled.contains(&direction) && !state.closed;
        self.changed.wait_while(self.state(), is_stalled).unwrap()
    }
}

impl State {
    /// Records bytes in this direction, and returns their delay.
    fn passing(&mut self, direction: Direction, bytes: &[u8]) -> Duration {
        let contains = |text: &String| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        let begins = !self.stalled_from.is_empty() && self.stalled_from.iter().all(contains);
        if direction == Direction::ToServer && begins {
            self.stalled_from.clear();
            self.stalled.push(direction);
        }
        self.delay
    }
}

fn forward(mut from: &TcpStream, mut to: &TcpStream, direction: Direction, link: &Link) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let delay = link.state().passing(direction, &buffer[..count]);
        sleep(delay);
        if direction == Direction::ToClient && std::mem::take(&mut link.wait(direction).losing) {
            let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
            return;
        }
        drop(link.wait(direction));
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    drop(link.wait(direction));
    // Only this direction ends: the other side may still be reading.
    let _ = to.shutdown(Shutdown::Write);
}
