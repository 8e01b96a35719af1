//! A long way: what comes in on one side leaves on the other one after a delay. Counts the ClientHellos that pass.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::cli::Relay;
use crate::start;

/// Prints its address, and the number of ClientHellos of each connection that ends.
pub(crate) async fn run(options: Relay) -> anyhow::Result<Value> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    start::say(&json!({ "address": address.to_string() }).to_string()).await?;
    let mut ended = std::pin::pin!(start::input_ended());
    let mut connections = 0;
    loop {
        tokio::select! {
            () = &mut ended => return Ok(json!({ "connections": connections })),
            accepted = listener.accept() => {
                connections += 1;
                let client = accepted?.0;
                tokio::spawn(async move {
                    let hellos = carry(client, options.to, options.delay).await;
                    let _ = start::say(&json!({ "client_hellos": hellos.ok() }).to_string()).await;
                });
            }
        }
    }
}

/// Carries a connection to its end; how many ClientHellos there were.
pub(crate) async fn carry(
    client: TcpStream,
    to: SocketAddr,
    delay: Duration,
) -> anyhow::Result<usize> {
    let server = TcpStream::connect(to).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut hellos = Hellos::default();
    tokio::join!(
        one_way(from_client, to_server, delay, |bytes| hellos.read(bytes)),
        one_way(from_server, to_client, delay, |_| {}),
    );
    Ok(hellos.count())
}

async fn one_way(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    delay: Duration,
    mut look: impl FnMut(&[u8]),
) {
    let (sender, mut receiver) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let reading = async {
        let mut buffer = vec![0; 16 * 1024];
        // Dropped at the end, so that the other half ends once it has sent everything.
        let sender = sender;
        while let Ok(length) = from.read(&mut buffer).await {
            look(&buffer[..length]);
            if length == 0
                || sender
                    .send((Instant::now() + delay, buffer[..length].to_vec()))
                    .is_err()
            {
                break;
            }
        }
    };
    let writing = async {
        while let Some((due, bytes)) = receiver.recv().await {
            sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(reading, writing);
}

/// Counts ClientHellos in what a client sends in the clear (RFC 8446, sections 4 and 5.1). Each is taken to be in
/// a record of its own, as it is.
#[derive(Debug, Default)]
pub(crate) struct Hellos {
    count: usize,
    waiting: Vec<u8>,
}

impl Hellos {
    /// How many there were so far.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Looks at the next bytes.
    pub(crate) fn read(&mut self, bytes: &[u8]) {
        self.waiting.extend_from_slice(bytes);
        while let [kind, _, _, high, low, rest @ ..] = self.waiting.as_slice() {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            if rest.len() < length {
                return;
            }
            if *kind == HANDSHAKE && rest.first() == Some(&CLIENT_HELLO) {
                self.count += 1;
            }
            self.waiting.drain(..RECORD_HEADER + length);
        }
    }
}

const RECORD_HEADER: usize = 5;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
