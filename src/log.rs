//! The log: lines for standard error, through a bounded queue and a thread of their own.
//!
//! Whoever has something to say never waits for whoever reads it. A line that finds no room, or no reader, is lost
//! and counted.

use std::io::{self, IsTerminal, Write};
use std::panic::PanicHookInfo;
use std::sync::LazyLock;
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::cli::LogFormat;
use crate::commands::Failure;

/// Lines that nobody read in time.
pub(crate) static LOST: LazyLock<Counter> = LazyLock::new(Counter::default);

/// The log of this process. Dropped, it gives what still waits a moment to be written.
pub(crate) struct Log {
    queue: Queue,
}

#[derive(Clone)]
struct Queue(SyncSender<Message>);

enum Message {
    Line(Vec<u8>),
    /// Answered once everything before it was written.
    Flush(SyncSender<()>),
}

impl Log {
    /// From now on everything that is traced goes to standard error.
    pub(crate) fn start(format: LogFormat) -> Result<Self, Failure> {
        let filter = match std::env::var("KEYBOUND_LOG") {
            Ok(filter) => EnvFilter::try_new(&filter)
                .map_err(|error| Failure::usage(format!("KEYBOUND_LOG={filter:?}: {error}.")))?,
            Err(_) => EnvFilter::new("info"),
        };
        let (sender, receiver) = mpsc::sync_channel(LINES_WAITING);
        std::thread::Builder::new()
            .name("log".into())
            .spawn(move || write(&receiver))
            .map_err(|error| Failure::refused(format!("The log cannot be set up: {error}.")))?;
        let queue = Queue(sender);
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(queue.clone())
            .with_ansi(io::stderr().is_terminal());
        let set = match format {
            LogFormat::Text => subscriber.try_init(),
            LogFormat::Json => subscriber.json().try_init(),
        };
        set.map_err(|error| Failure::refused(format!("The log cannot be set up: {error}.")))?;
        std::panic::set_hook(Box::new(tell_panic));
        Ok(Self { queue })
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let (done, written) = mpsc::sync_channel(1);
        let mut flush = Message::Flush(done);
        let until = Instant::now() + FLUSH_WITHIN;
        loop {
            match self.queue.0.try_send(flush) {
                Ok(()) => break,
                Err(TrySendError::Full(message)) if Instant::now() < until => flush = message,
                // Who does not read by then does not read.
                Err(_) => return,
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        let _ = written.recv_timeout(until.saturating_duration_since(Instant::now()));
    }
}

/// Tells a panic like everything else: what the standard library does itself would wait for whoever reads standard
/// error, and with it the thread that panicked.
fn tell_panic(panic: &PanicHookInfo<'_>) {
    tracing::error!(
        message = panic.payload_as_str().unwrap_or("a panic"),
        at = panic.location().map(tracing::field::display),
        thread = std::thread::current().name(),
    );
}

/// Writes what comes, for as long as the process lives.
fn write(queue: &Receiver<Message>) {
    let mut told = 0;
    while let Ok(message) = queue.recv() {
        match message {
            Message::Line(line) => {
                if io::stderr().write_all(&line).is_err() {
                    LOST.inc();
                    continue;
                }
            }
            Message::Flush(done) => {
                // Whoever asked may have given up.
                let _ = done.try_send(());
            }
        }
        let lost = LOST.get();
        if lost > told {
            tracing::warn!(
                lines = lost - told,
                "lines of the log were lost: nobody read them in time"
            );
            told = lost;
        }
    }
}

impl MakeWriter<'_> for Queue {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// Each call has a whole line. None fails or waits.
impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.0.try_send(Message::Line(line.to_vec())).is_err() {
            LOST.inc();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const LINES_WAITING: usize = 1024;
const FLUSH_WITHIN: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_is_written_in_the_end() {
        let (sender, receiver) = mpsc::sync_channel(1);
        let queue = Queue(sender);
        assert!(queue.0.send(Message::Line(Vec::new())).is_ok());
        let reader = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            let mut flushed = false;
            while let Ok(message) = receiver.recv() {
                flushed |= matches!(message, Message::Flush(done) if done.try_send(()).is_ok());
            }
            flushed
        });
        drop(Log { queue });
        assert_eq!(reader.join().ok(), Some(true));
    }
}
