//! Connections that sent one request and then nothing.

use std::cell::RefCell;
use std::time::Instant;

use futures_util::future::join_all;
use serde_json::Value;

use crate::cli::Idle;
use crate::devices::{self, Device, Speech};
use crate::dial::Target;
use crate::http1::{self, Buffer, Expected, Http1};
use crate::http2::Http2;
use crate::outcome::Outcome;
use crate::start;

/// Opens them, prints `held`, waits for a line, and sees that they are still good for a request.
pub(crate) async fn run(options: Idle) -> anyhow::Result<Value> {
    let protocol = if options.http2 { "h2" } else { "http/1.1" };
    let speech = Speech::new(&options.peer, protocol);
    let devices = devices::read(&options.peer, speech, options.connections)?;
    let target = Target::new(&options.peer)?;
    let request = http1::get(&target, "/1024");
    let opened = Outcome::begin();
    let held = RefCell::new(Vec::with_capacity(options.connections));
    let todo = RefCell::new(devices.iter().cycle().take(options.connections));
    join_all((0..AT_ONCE).map(|_| async {
        let mut buffer = http1::buffer();
        loop {
            let Some(device) = todo.borrow_mut().next() else {
                break;
            };
            let began = Instant::now();
            let mut opening = async || {
                let stream = target.dial(device).await?;
                let mut connection = if options.http2 {
                    Connection::Http2(Http2::new(stream).await?)
                } else {
                    Connection::Http1(Box::new(Http1::new(stream)))
                };
                connection
                    .get(&target, &request, device, &mut buffer)
                    .await?;
                held.borrow_mut().push((connection, device));
                Ok(())
            };
            let result = opening().await;
            opened.keep(began.elapsed(), result);
        }
    }))
    .await;
    start::say(&opened.report().to_string()).await?;
    start::told_to_go_on("held").await?;
    let outcome = Outcome::begin();
    let mut buffer = http1::buffer();
    for (connection, device) in &mut held.into_inner() {
        let began = Instant::now();
        let result = connection.get(&target, &request, device, &mut buffer).await;
        outcome.keep(began.elapsed(), result);
    }
    Ok(outcome.report())
}

enum Connection {
    Http1(Box<Http1>),
    Http2(Http2),
}

impl Connection {
    async fn get(
        &mut self,
        target: &Target,
        request: &[u8],
        device: &Device,
        buffer: &mut Buffer,
    ) -> anyhow::Result<()> {
        let expected = Expected {
            device: Some(&device.id),
            length: 1024,
        };
        match self {
            Self::Http1(http) => http.exchange(request, expected, buffer).await,
            Self::Http2(http) => http.get(target, "/1024", expected).await,
        }
    }
}

const AT_ONCE: usize = 32;
