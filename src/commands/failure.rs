//! How a command ends when it does not end well.

use std::fmt;
use std::io;
use std::process::ExitCode;

/// The end of a command: a sentence for people and an exit code for scripts.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    /// Whoever read our output has read enough.
    Unheard,
    /// Refused, or failed.
    Refused,
    /// The command line makes no sense.
    Usage,
    /// What was to be examined does not answer.
    Unexamined,
    /// Committed, but not acknowledged by every gateway.
    Unacknowledged,
}

impl Failure {
    /// Refused, or failed: what happened, where, and what to do next.
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::new(Exit::Refused, message)
    }

    /// The command line makes no sense.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// What was to be examined does not answer, or not as it should.
    pub(crate) fn unexamined(message: impl Into<String>) -> Self {
        Self::new(Exit::Unexamined, message)
    }

    /// Committed, but not acknowledged.
    pub(crate) fn unacknowledged(message: impl Into<String>) -> Self {
        Self::new(Exit::Unacknowledged, message)
    }

    /// What happened to a file or directory.
    pub(crate) fn file(what: &str, path: &std::path::Path, error: &io::Error) -> Self {
        Self::refused(format!("{} cannot be {what}: {error}.", path.display()))
    }

    /// The exit code of the process.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self.exit {
            Exit::Unheard => 0,
            Exit::Refused => 1,
            Exit::Usage | Exit::Unexamined => 2,
            Exit::Unacknowledged => 3,
        })
    }

    /// Whether there is anything to say.
    pub(crate) fn is_silent(&self) -> bool {
        self.message.is_empty()
    }

    fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Writing to standard output failed. A reader such as `head` that has left is no failure.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::new(Exit::Unheard, "")
        } else {
            Self::refused(format!("The output cannot be written: {error}."))
        }
    }
}
