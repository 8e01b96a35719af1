//! The access log: a line for each request, tunnel and stream that has ended, through a bounded queue and a thread of its own.
//!
//! Nobody who serves waits for it. A line that finds no room, or no disk, is lost, counted and an alarm.

mod line;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, SyncSender, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gateway::Exchange;
use rustix::fs::OFlags;

use crate::config::{AccessLogSettings, Destination};
use crate::metrics::Metrics;

/// An opened destination, which is not in force yet.
pub(crate) struct Opened {
    settings: AccessLogSettings,
    output: Output,
    /// The last line there was written in part.
    torn: bool,
}

enum Output {
    Stdout,
    File(File),
}

/// Takes what has ended. It is there also where no lines are wanted, so that a reload can change that.
pub(crate) struct AccessLog {
    queue: SyncSender<Message>,
    state: Arc<State>,
}

enum Message {
    Exchange(Box<Exchange>),
    /// Look at what is wanted.
    Look,
    /// Answered once everything before it was written.
    Flush(SyncSender<()>),
}

struct State {
    metrics: Metrics,
    /// What is to be in force, until the thread takes it; none within is no log.
    next: Mutex<Option<Option<Opened>>>,
    /// What is in force, and what is wrong.
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    settings: Option<AccessLogSettings>,
    /// Why the last line could not be written.
    fault: Option<String>,
    /// When a line last found no room.
    overrun: Option<Instant>,
}

/// Opens a destination, which makes the file if there is none.
pub(crate) fn open(settings: &AccessLogSettings) -> io::Result<Opened> {
    let (output, torn) = match &settings.destination {
        Destination::Stdout => (Output::Stdout, false),
        Destination::File(path) => {
            let (file, torn) = append(path)?;
            (Output::File(file), torn)
        }
    };
    Ok(Opened {
        settings: settings.clone(),
        output,
        torn,
    })
}

/// Opens a file for lines, and says whether a process before left half a line at its end.
fn append(path: &Path) -> io::Result<(File, bool)> {
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o640)
        // A pipe without a reader would be waited for.
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut last = *b"\n";
    if let Some(end) = metadata.len().checked_sub(1) {
        file.read_exact_at(&mut last, end)?;
    }
    Ok((file, last != *b"\n"))
}

impl AccessLog {
    /// Starts the thread.
    pub(crate) fn start(metrics: Metrics) -> io::Result<Self> {
        let state = Arc::new(State {
            metrics,
            next: Mutex::default(),
            told: Mutex::default(),
        });
        let (queue, receiver) = mpsc::sync_channel(LINES_WAITING);
        let writing = Arc::clone(&state);
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || write(&receiver, &writing))?;
        Ok(Self { queue, state })
    }

    /// Puts a destination in force, or none, for what ends from now on.
    pub(crate) fn publish(&self, opened: Option<Opened>) {
        let mut told = self.state.told();
        told.settings = opened.as_ref().map(|opened| opened.settings.clone());
        if told.settings.is_none() {
            *told = Told::default();
        }
        drop(told);
        let next = self.state.next.lock();
        *next.unwrap_or_else(PoisonError::into_inner) = Some(opened);
        // With a full queue the thread has enough to wake for.
        let _ = self.queue.try_send(Message::Look);
    }

    /// Opens again what is in force, because somebody may have moved the file. What fails leaves the old file in force.
    pub(crate) fn reopen(&self) {
        let settings = self.state.told().settings.clone();
        match settings.as_ref().map(open) {
            None => {}
            Some(Ok(opened)) => self.publish(Some(opened)),
            Some(Err(error)) => self.state.failed(&error),
        }
    }

    /// Takes an exchange that has ended.
    pub(crate) fn put(&self, exchange: Exchange) {
        let message = Message::Exchange(Box::new(exchange));
        if self.queue.try_send(message).is_err() {
            self.state.metrics.access_log_lost.inc();
            let overrun = self.state.told().overrun.replace(Instant::now());
            if overrun.is_none_or(|last| last.elapsed() > OVERRUN_LASTS) {
                tracing::error!(target: "alarm", "lines of the access log are lost: what it is written to takes them too slowly");
            }
        }
    }

    /// What is wrong, in sentences.
    pub(crate) fn alarms(&self) -> Vec<String> {
        let told = self.state.told();
        let fault = told.fault.iter().map(|fault| {
            format!("The access log cannot be written, and its lines are lost: {fault}.")
        });
        let overrun = told.overrun.iter().filter_map(|last| {
            let lasts = last.elapsed() < OVERRUN_LASTS;
            lasts.then(|| "Lines of the access log are lost, because what it is written to takes them too slowly.".to_owned())
        });
        fault.chain(overrun).collect()
    }

    /// Waits until what was put has been written, for a moment at most.
    pub(crate) fn flush(&self) {
        let (done, written) = mpsc::sync_channel(1);
        if self.queue.try_send(Message::Flush(done)).is_ok() {
            // Who does not take them by then does not take them.
            let _ = written.recv_timeout(FLUSH_WITHIN);
        }
    }
}

impl State {
    fn told(&self) -> MutexGuard<'_, Told> {
        // Every change is whole when the lock is released, even by a panic.
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, error: &io::Error) {
        if self.told().fault.replace(error.to_string()).is_none() {
            tracing::error!(target: "alarm", %error, "the access log cannot be written");
        }
    }

    fn written(&self) {
        if self.told().fault.take().is_some() {
            tracing::warn!("the access log can be written again");
        }
    }
}

/// Writes what comes, for as long as the process lives.
fn write(queue: &Receiver<Message>, state: &State) {
    let mut sink: Option<Opened> = None;
    let mut text = Vec::new();
    while let Ok(first) = queue.recv() {
        let next = state.next.lock();
        let next = next.unwrap_or_else(PoisonError::into_inner).take();
        if let Some(opened) = next {
            sink = opened;
        }
        text.clear();
        let mut lines = 0;
        let mut flush = None;
        let mut message = Ok(first);
        while let Ok(taken) = message {
            match (taken, &sink) {
                (Message::Exchange(exchange), Some(sink)) => {
                    line::write(&mut text, sink.settings.format, &exchange);
                    lines += 1;
                }
                (Message::Exchange(_) | Message::Look, _) => {}
                (Message::Flush(done), _) => flush = Some(done),
            }
            message = if lines < LINES_AT_ONCE && flush.is_none() {
                queue.try_recv()
            } else {
                Err(TryRecvError::Empty)
            };
        }
        if let Some(sink) = &mut sink
            && lines > 0
        {
            match sink.write(&text) {
                Ok(()) => {
                    state.metrics.access_log_lines.inc_by(lines);
                    state.written();
                }
                Err((written, error)) => {
                    let whole = text[..written]
                        .iter()
                        .filter(|byte| **byte == b'\n')
                        .count() as u64;
                    state.metrics.access_log_lines.inc_by(whole);
                    state.metrics.access_log_lost.inc_by(lines - whole);
                    state.failed(&error);
                }
            }
        }
        if let Some(done) = flush {
            // Whoever asked may have given up.
            let _ = done.try_send(());
        }
    }
}

impl Opened {
    /// Writes whole lines; or says how much of them was written, and why no more.
    fn write(&mut self, text: &[u8]) -> Result<(), (usize, io::Error)> {
        if self.torn {
            // What is left of the broken line is a line of its own.
            self.put(b"\n").map_err(|(_, error)| (0, error))?;
            self.torn = false;
        }
        self.put(text).inspect_err(|(written, _)| {
            self.torn = *written > 0 && text[written - 1] != b'\n';
        })
    }

    fn put(&self, text: &[u8]) -> Result<(), (usize, io::Error)> {
        let mut written = 0;
        while written < text.len() {
            let wrote = match &self.output {
                Output::File(file) => {
                    let mut file = file;
                    file.write(&text[written..])
                }
                // Not through the standard library's buffer, which would keep what could not be written.
                Output::Stdout => rustix::io::write(rustix::stdio::stdout(), &text[written..])
                    .map_err(io::Error::from),
            };
            match wrote {
                Ok(0) => return Err((written, io::ErrorKind::WriteZero.into())),
                Ok(length) => written += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err((written, error)),
            }
        }
        Ok(())
    }
}

const LINES_WAITING: usize = 16_384;
const LINES_AT_ONCE: u64 = 256;
const FLUSH_WITHIN: Duration = Duration::from_secs(1);
/// How long an alarm lasts after a line found no room.
const OVERRUN_LASTS: Duration = Duration::from_secs(60);
