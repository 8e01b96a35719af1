//! The frames of an HTTP/2 connection, and how many of them a peer may send for nothing (RFC 9113, sections
//! 4.1 and 10.5).

use std::time::Duration;

/// Finds the frames in one direction of a connection, however its bytes were cut into reads.
#[derive(Debug)]
pub(crate) struct Frames {
    /// Of a reset, with its error code.
    header: [u8; HEADER + CODE],
    filled: usize,
    /// Bytes until the next header.
    skip: usize,
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    length: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    code: u32,
}

impl Frames {
    /// From the client: the preface comes first.
    pub(crate) fn inbound() -> Self {
        Self {
            header: [0; HEADER + CODE],
            filled: 0,
            skip: PREFACE,
        }
    }

    /// From the server.
    pub(crate) fn outbound() -> Self {
        Self {
            skip: 0,
            ..Self::inbound()
        }
    }

    /// Follows the next bytes.
    pub(crate) fn follow(&mut self, mut bytes: &[u8], mut each: impl FnMut(Frame)) {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return;
            }
            let with_code = self.filled >= HEADER;
            let whole = HEADER + if with_code { CODE } else { 0 };
            let taken = (whole - self.filled).min(bytes.len());
            self.header[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled < whole {
                return;
            }
            let frame = Frame::read(self.header);
            if frame.kind == RST_STREAM && frame.length == CODE && !with_code {
                continue;
            }
            self.filled = 0;
            self.skip = frame.length - (whole - HEADER);
            each(frame);
        }
    }

    /// Whether the next byte begins a frame.
    pub(crate) fn is_between(&self) -> bool {
        self.skip == 0 && self.filled == 0
    }
}

impl Frame {
    fn read(header: [u8; HEADER + CODE]) -> Self {
        let [l2, l1, l0, kind, flags, s3, s2, s1, s0, code @ ..] = header;
        Self {
            length: usize::from(l2) << 16 | usize::from(l1) << 8 | usize::from(l0),
            kind,
            flags,
            stream: u32::from_be_bytes([s3 & 0x7f, s2, s1, s0]),
            code: u32::from_be_bytes(code),
        }
    }

    /// The error code of a stream's reset.
    pub(crate) fn reset(self) -> Option<u32> {
        (self.kind == RST_STREAM && self.length == CODE).then_some(self.code)
    }

    /// Whether it sets something, and does not only acknowledge that.
    pub(crate) fn is_settings(self) -> bool {
        self.kind == SETTINGS && self.flags & ACK == 0
    }

    fn cost(self) -> u32 {
        match self.kind {
            // One of one byte may be padding alone.
            DATA if self.length == 0 || self.flags & PADDED != 0 && self.length <= 256 => {
                u32::from(self.flags & END_STREAM == 0)
            }
            DATA => 0,
            // Each may change every stream, or waste a request to an upstream.
            SETTINGS | RST_STREAM => 5,
            _ => 1,
        }
    }
}

/// What a peer may still send that brings no request forward. Answers give more of it, as each may be
/// followed by updates of its windows; so does time.
#[derive(Debug)]
pub(crate) struct Allowance {
    left: u32,
    last_stream: u32,
    /// Time that has passed and was not enough for a frame.
    spare: Duration,
}

impl Allowance {
    pub(crate) fn new() -> Self {
        Self {
            left: MOST,
            last_stream: 0,
            spare: Duration::ZERO,
        }
    }

    /// A frame came. False if it is one too many.
    #[must_use]
    pub(crate) fn receive(&mut self, frame: Frame) -> bool {
        if frame.kind == HEADERS {
            self.last_stream = self.last_stream.max(frame.stream);
        }
        match self.left.checked_sub(frame.cost()) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }

    /// A frame was sent.
    pub(crate) fn sent(&mut self, frame: Frame) {
        if matches!(frame.kind, DATA | HEADERS) {
            self.add(PER_ANSWER_FRAME);
        }
    }

    /// Time has passed since the last call.
    pub(crate) fn refill(&mut self, elapsed: Duration) {
        let passed = self.spare.saturating_add(elapsed);
        let frames = passed.as_nanos() / PER_FRAME.as_nanos();
        self.add(u32::try_from(frames).unwrap_or(MOST));
        let rest = passed.as_nanos() % PER_FRAME.as_nanos();
        self.spare = Duration::from_nanos(u64::try_from(rest).unwrap_or_default());
    }

    /// Whether it is time to refill.
    pub(crate) fn is_low(&self) -> bool {
        self.left < MOST / 2
    }

    /// GOAWAY with ENHANCE_YOUR_CALM, naming the last request that may have been worked on.
    pub(crate) fn goaway(&self) -> [u8; HEADER + 8] {
        let mut frame = [0; HEADER + 8];
        frame[2] = 8;
        frame[3] = GOAWAY;
        frame[HEADER..HEADER + 4].copy_from_slice(&self.last_stream.to_be_bytes());
        frame[HEADER + 7] = ENHANCE_YOUR_CALM;
        frame
    }

    fn add(&mut self, frames: u32) {
        self.left = self.left.saturating_add(frames).min(MOST);
    }
}

const HEADER: usize = 9;
/// Of RST_STREAM, which has nothing else.
const CODE: usize = 4;
const PREFACE: usize = 24;
pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
pub(super) const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const PADDED: u8 = 8;
const ENHANCE_YOUR_CALM: u8 = 11;
/// Enough for a hundred streams that are begun, prioritized, updated and canceled at once.
const MOST: u32 = 2000;
/// 50 in a second.
const PER_FRAME: Duration = Duration::from_millis(20);
/// Two windows are updated, and something is left over for pings.
const PER_ANSWER_FRAME: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(length: usize, kind: u8, flags: u8) -> Vec<u8> {
        let mut frame = vec![
            0,
            0,
            u8::try_from(length).expect("short"),
            kind,
            flags,
            0,
            0,
            0,
            3,
        ];
        frame.resize(HEADER + length, 0xff);
        frame
    }

    #[test]
    fn frames_are_found_however_they_are_cut() {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        for (length, kind) in [(0, SETTINGS), (8, 6), (200, DATA), (5, HEADERS)] {
            bytes.extend(frame(length, kind, 0));
            bytes.extend([0, 0, 4, RST_STREAM, 0, 0, 0, 0, 3, 0, 0, 1, length as u8]);
        }
        // No reset has another length.
        bytes.extend(frame(5, RST_STREAM, 0));
        for size in 1..bytes.len() {
            let (mut frames, mut found) = (Frames::inbound(), Vec::new());
            let mut codes = Vec::new();
            for cut in bytes.chunks(size) {
                frames.follow(cut, |frame| {
                    codes.extend(frame.reset());
                    if frame.reset().is_none() {
                        found.push((frame.length, frame.kind));
                    }
                });
            }
            assert_eq!(
                found,
                [
                    (0, SETTINGS),
                    (8, 6),
                    (200, DATA),
                    (5, HEADERS),
                    (5, RST_STREAM)
                ],
                "cut every {size} bytes"
            );
            assert_eq!(codes, [256, 264, 456, 261], "cut every {size} bytes");
            assert!(frames.is_between());
        }
    }

    /// How many of a frame are let pass.
    fn check(length: usize, kind: u8, flags: u8, expected: usize) {
        let (mut frames, mut allowance) = (Frames::outbound(), Allowance::new());
        let (bytes, mut passed) = (frame(length, kind, flags), 0);
        let mut open = true;
        while open && passed < 10_000 {
            frames.follow(&bytes, |frame| open = allowance.receive(frame));
            passed += usize::from(open);
        }
        assert_eq!(passed, expected, "{length} {kind} {flags}");
    }

    #[test]
    fn what_brings_no_request_forward_is_counted() {
        check(8, 6, 0, 2000);
        check(0, SETTINGS, 0, 400);
        check(4, RST_STREAM, 0, 400);
        check(5, 2, 0, 2000);
        check(4, 8, 0, 2000);
        check(5, HEADERS, 0, 2000);
        check(0, DATA, 0, 2000);
        check(100, DATA, PADDED, 2000);
        check(0, DATA, END_STREAM, 10_000);
        check(1, DATA, 0, 10_000);
    }

    #[test]
    fn answers_and_time_give_more() {
        let ping = Frame::read([0, 0, 8, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let answer = Frame::read([0, 0, 8, HEADERS, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
        let mut allowance = Allowance::new();
        for _ in 0..100_000 {
            allowance.sent(answer);
            for _ in 0..4 {
                assert!(allowance.receive(ping));
            }
        }
        while allowance.receive(ping) {}
        let mut refilled = |elapsed, times| {
            for _ in 0..times {
                allowance.refill(elapsed);
            }
            (0..10_000).take_while(|_| allowance.receive(ping)).count()
        };
        assert_eq!(refilled(Duration::from_secs(1), 1), 50);
        // However often it is asked for.
        assert_eq!(refilled(Duration::from_millis(1), 1000), 50);
        assert_eq!(refilled(Duration::from_micros(19_999), 1), 0);
        assert_eq!(refilled(Duration::from_micros(1), 1), 1);
        assert_eq!(refilled(Duration::MAX, 1), 2000);
    }
}
