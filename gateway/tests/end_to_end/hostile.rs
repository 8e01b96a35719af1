//! An upstream that answers each path as it was told to, byte for byte, and keeps a list of who asked for what.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gateway::{
    IdentityHeader, Route, RoutePolicy, RouteTable, Snapshot, TcpRouteTable, Upstream,
    UpstreamAddress,
};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

#[derive(Clone)]
pub(crate) struct Hostile {
    pub(crate) address: UpstreamAddress,
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
    /// Without a goodbye of TLS.
    Leave,
    Reset,
}

impl Hostile {
    pub(crate) async fn start() -> Self {
        Self::listen(
            |port| format!("http://127.0.0.1:{port}"),
            async |tcp| Ok(tcp),
        )
        .await
    }

    pub(crate) async fn over_tls(acceptor: TlsAcceptor) -> Self {
        Self::listen(
            |port| format!("https://127.0.0.1:{port}"),
            move |tcp| acceptor.clone().accept(tcp),
        )
        .await
    }

    pub(crate) fn over_unix(path: &str) -> Self {
        let listener = UnixListener::bind(path).expect("a socket");
        let hostile = Self::at(&format!("unix:{path}"));
        let accepting = hostile.clone();
        tokio::spawn(async move {
            let mut number = 0;
            while let Ok((unix, _)) = listener.accept().await {
                number += 1;
                let serving = accepting.clone();
                tokio::spawn(async move { serving.serve(unix, number).await });
            }
        });
        hostile
    }

    async fn listen<S, F>(
        address: impl FnOnce(u16) -> String,
        begin: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> Self
    where
        S: Stream,
        F: Future<Output = io::Result<S>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let hostile = Self::at(&address(port));
        let accepting = hostile.clone();
        tokio::spawn(async move {
            let mut number = 0;
            while let Ok((tcp, _)) = listener.accept().await {
                number += 1;
                let serving = accepting.clone();
                tcp.set_nodelay(true).expect("set");
                let beginning = begin(tcp);
                tokio::spawn(async move { serving.serve(beginning.await?, number).await });
            }
        });
        hostile
    }

    /// At an address where somebody else listens.
    pub(crate) fn at(address: &str) -> Self {
        Self {
            address: address.parse().expect("an upstream"),
            known: Arc::default(),
        }
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

    async fn serve(&self, mut tcp: impl Stream, number: usize) -> io::Result<()> {
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
            if let Some(rest) = head.split("content-length: ").nth(1)
                && !head.contains("/early-")
            {
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
                    Step::Send(bytes) => {
                        tcp.write_all(&bytes).await?;
                        tcp.flush().await?;
                    }
                    Step::Flood(bytes) => loop {
                        tcp.write_all(&bytes).await?;
                    },
                    Step::Pause(time) => tokio::time::sleep(time).await,
                    Step::Tell(whom) => whom.notify_one(),
                    Step::Hang => {
                        while tcp.read_buf(&mut buffer).await? > 0 {}
                        return Ok(());
                    }
                    Step::Close => return tcp.shutdown().await,
                    Step::Leave => return Ok(()),
                    Step::Reset => {
                        // What was sent arrives first.
                        tokio::time::sleep(Duration::from_millis(30)).await;
                        return tcp.reset();
                    }
                }
            }
        }
    }
}

/// What a connection is made of.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Makes its end a reset, as far as it has such an end.
    fn reset(&self) -> io::Result<()>;
}

impl Stream for TcpStream {
    fn reset(&self) -> io::Result<()> {
        SockRef::from(self).set_linger(Some(Duration::ZERO))
    }
}

impl Stream for TlsStream<TcpStream> {
    fn reset(&self) -> io::Result<()> {
        self.get_ref().0.reset()
    }
}

impl Stream for UnixStream {
    fn reset(&self) -> io::Result<()> {
        Ok(())
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
pub(crate) fn routes(first: UpstreamAddress, other: SocketAddr) -> Snapshot {
    routes_to(Upstream::of(vec![first]), other)
}

/// The same, for an upstream with which more was agreed.
pub(crate) fn routes_to(first: Arc<Upstream>, other: SocketAddr) -> Snapshot {
    let other = format!("http://{other}").parse().expect("an upstream");
    let route = |path: &str, upstream: Arc<Upstream>| Route {
        host: None,
        path: path.to_owned(),
        upstream,
        identity: vec![IdentityHeader::DeviceId],
        policy: RoutePolicy::default(),
    };
    Snapshot {
        routes: RouteTable::new(vec![
            route("/", first),
            route("/other/", Upstream::of(vec![other])),
        ])
        .expect("routes"),
        tcp_routes: TcpRouteTable::default(),
        server_names: vec!["api.test".into()],
        without_sni: vec![],
    }
}
