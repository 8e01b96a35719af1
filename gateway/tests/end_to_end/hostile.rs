//! An upstream that answers each path as it was told to, byte for byte, and keeps a list of who asked for what.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gateway::{IdentityHeader, Route, RouteTable, Snapshot, TcpRouteTable, Upstream};
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

#[derive(Clone)]
pub(crate) struct Hostile {
    pub(crate) address: SocketAddr,
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    scripts: HashMap<String, Vec<Step>>,
    /// Path and number of the connection of each request.
    seen: Vec<(String, usize)>,
}

/// What is done about a request.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Send(Vec<u8>),
    /// Again and again, until nobody takes it.
    Flood(Vec<u8>),
    Pause(Duration),
    /// Says that everything before it was done.
    Tell(Arc<Notify>),
    /// Nothing more, until the other side closes.
    Hang,
    Close,
    Reset,
}

impl Hostile {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let hostile = Self {
            address: listener.local_addr().expect("bound"),
            known: Arc::default(),
        };
        let accepting = hostile.clone();
        tokio::spawn(async move {
            let mut number = 0;
            while let Ok((tcp, _)) = listener.accept().await {
                number += 1;
                let serving = accepting.clone();
                tokio::spawn(async move { serving.serve(tcp, number).await });
            }
        });
        hostile
    }

    /// How requests for `path` are answered; others get 200 with the path as their body.
    pub(crate) fn script(&self, path: &str, steps: &[Step]) {
        self.with(|known| known.scripts.insert(path.to_owned(), steps.to_vec()));
    }

    /// The numbers of the connections over which `path` was asked for.
    pub(crate) fn seen(&self, path: &str) -> Vec<usize> {
        self.with(|known| {
            let seen = known.seen.iter().filter(|(seen, _)| seen == path);
            seen.map(|(_, number)| *number).collect()
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut Known) -> T) -> T {
        act(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn serve(&self, mut tcp: TcpStream, number: usize) -> io::Result<()> {
        tcp.set_nodelay(true)?;
        let mut buffer = Vec::new();
        loop {
            let end = loop {
                if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                    break at + 4;
                }
                if tcp.read_buf(&mut buffer).await? == 0 {
                    return Ok(());
                }
            };
            let head: Vec<u8> = buffer.drain(..end).collect();
            let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
            if let Some(rest) = head.split("content-length: ").nth(1) {
                let digits = rest.split("\r\n").next().unwrap_or_default();
                let length: usize = digits.parse().expect("a length");
                while buffer.len() < length {
                    if tcp.read_buf(&mut buffer).await? == 0 {
                        return Ok(());
                    }
                }
                buffer.drain(..length);
            }
            let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
            let steps = self.with(|known| {
                known.seen.push((path.clone(), number));
                known.scripts.get(&path).cloned()
            });
            let steps = steps.unwrap_or_else(|| vec![Step::Send(ok(&path))]);
            for step in steps {
                match step {
                    Step::Send(bytes) => tcp.write_all(&bytes).await?,
                    Step::Flood(bytes) => loop {
                        tcp.write_all(&bytes).await?;
                    },
                    Step::Pause(time) => tokio::time::sleep(time).await,
                    Step::Tell(whom) => whom.notify_one(),
                    Step::Hang => {
                        while tcp.read_buf(&mut buffer).await? > 0 {}
                        return Ok(());
                    }
                    Step::Close => return Ok(()),
                    Step::Reset => {
                        // What was sent arrives first.
                        tokio::time::sleep(Duration::from_millis(30)).await;
                        return SockRef::from(&tcp).set_linger(Some(Duration::ZERO));
                    }
                }
            }
        }
    }
}

/// A whole answer.
pub(crate) fn ok(body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Routes: `first` for everything, `other` below `/other/`.
pub(crate) fn routes(first: SocketAddr, other: SocketAddr) -> Snapshot {
    let route = |path: &str, address: SocketAddr| Route {
        host: None,
        path: path.to_owned(),
        upstream: Upstream::of(vec![
            format!("http://{address}").parse().expect("an upstream"),
        ]),
        identity: vec![IdentityHeader::DeviceId],
    };
    Snapshot {
        routes: RouteTable::new(vec![route("/", first), route("/other/", other)]).expect("routes"),
        tcp_routes: TcpRouteTable::default(),
        server_names: vec!["api.test".into()],
        without_sni: vec![],
    }
}
