//! How many heads an upstream sends for one answer over HTTP/2.
//!
//! The HTTP implementation keeps every interim answer until somebody asks for it, and nobody does.

use std::collections::HashMap;

use super::http2_frames::{DATA, END_STREAM, Frame, HEADERS, RST_STREAM};

/// Counts the HEADERS frames of each stream that has not ended.
#[derive(Debug, Default)]
pub(crate) struct AnswerHeads {
    streams: HashMap<u32, u8>,
}

impl AnswerHeads {
    /// A frame came from the server. False if it is one head too many.
    #[must_use]
    pub(crate) fn receive(&mut self, frame: Frame) -> bool {
        let ends = frame.kind == RST_STREAM
            || matches!(frame.kind, DATA | HEADERS) && frame.flags & END_STREAM != 0;
        if ends {
            self.streams.remove(&frame.stream);
            return true;
        }
        if frame.kind != HEADERS {
            return true;
        }
        // What the gateway gave up itself is never heard of again.
        if self.streams.len() >= MAX_STREAMS {
            self.streams.clear();
        }
        let heads = self.streams.entry(frame.stream).or_default();
        *heads = heads.saturating_add(1);
        *heads <= MAX_HEADS
    }
}

/// 16 interim answers, as over HTTP/1.1, and the answer; trailers end the stream.
const MAX_HEADS: u8 = 17;
const MAX_STREAMS: usize = 4096;

#[cfg(test)]
mod tests {
    use super::super::http2_frames::Frames;
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32) -> Frame {
        let [s3, s2, s1, s0] = stream.to_be_bytes();
        let mut found = None;
        Frames::outbound().follow(&[0, 0, 0, kind, flags, s3, s2, s1, s0], |frame| {
            found = Some(frame);
        });
        found.expect("a frame")
    }

    #[test]
    fn heads_are_counted_by_stream() {
        let mut heads = AnswerHeads::default();
        for stream in [1, 3] {
            for _ in 0..MAX_HEADS {
                assert!(heads.receive(frame(HEADERS, 0, stream)));
                assert!(heads.receive(frame(DATA, 0, stream)));
            }
        }
        assert!(heads.receive(frame(HEADERS, END_STREAM, 1)));
        assert!(heads.receive(frame(HEADERS, 0, 1)));
        assert!(heads.receive(frame(DATA, END_STREAM, 1)));
        assert!(!heads.receive(frame(HEADERS, 0, 3)));
        assert!(heads.receive(frame(RST_STREAM, 0, 3)));
        assert!(heads.receive(frame(HEADERS, 0, 3)));
    }
}
