//! Windows of checkpoints, reduced to the bytes that are needed.
//!
//! A span that starts inside a gzip member may refer to any of the 32 KiB
//! before it, but refers to few of them. Which, the inflater tells: the span's
//! first 32 KiB (later output cannot refer to the window) are decoded
//! from two made-up windows that differ in every byte, and in which no two
//! positions have the same pair of bytes. Where the two outputs differ, the byte
//! came from the window, and the pair says from where.

use super::WINDOW;
use super::inflate::{Format, Inflater, Status};

/// How many compressed bytes of a span are looked at. 32 KiB of output take more
/// only in streams made for it, and then the whole window is kept.
pub(super) const AHEAD: usize = 64 << 10;

/// Appends output to a window, of which the last 32 KiB stay.
pub(super) fn append(window: &mut Vec<u8>, output: &[u8]) {
    let output = &output[output.len().saturating_sub(WINDOW)..];
    let excess = (window.len() + output.len()).saturating_sub(WINDOW);
    window.drain(..excess);
    window.extend_from_slice(output);
}

pub(super) struct Tracer {
    inflater: Inflater,
    patterns: [Vec<u8>; 2],
    outputs: [Vec<u8>; 2],
}

impl Tracer {
    pub fn new() -> Result<Self, &'static str> {
        let pattern = |second| (0..WINDOW).map(move |position| pair(position)[second]);
        Ok(Tracer {
            inflater: Inflater::new(Format::Raw)?,
            patterns: [pattern(0).collect(), pattern(1).collect()],
            outputs: [const { Vec::new() }; 2],
        })
    }

    /// The window that the blocks need that start with `bits` bits of `byte` and
    /// go on with `ahead`.
    pub fn trim(&mut self, window: &[u8], bits: u8, byte: u8, ahead: &[u8]) -> Vec<u8> {
        let mut first = window.len();
        let mut trimmed = vec![0; window.len()];
        for which in 0..2 {
            let pattern = &self.patterns[which][..window.len()];
            let output = &mut self.outputs[which];
            output.clear();
            match decode(&mut self.inflater, pattern, bits, byte, ahead, output) {
                Ok(true) => {}
                // Damaged or cut off: not for us to say.
                Ok(false) | Err(_) => return window.to_vec(),
            }
        }
        let [one, other] = &self.outputs;
        for (one, other) in one.iter().zip(other) {
            if one != other {
                let position = position([*one, *other]);
                trimmed[position] = window[position];
                first = first.min(position);
            }
        }
        trimmed.drain(..first);
        trimmed
    }
}

/// Says whether the output is what a window's length of it would be.
fn decode(
    inflater: &mut Inflater,
    window: &[u8],
    bits: u8,
    byte: u8,
    ahead: &[u8],
    output: &mut Vec<u8>,
) -> Result<bool, &'static str> {
    inflater.reset(Format::Raw)?;
    inflater.begin(bits, byte, window)?;
    let (_, status) = inflater.run(ahead, output, WINDOW, false)?;
    Ok(output.len() == WINDOW || matches!(status, Status::End))
}

/// The low byte of the position, and that byte changed in a way that
/// tells the high one.
fn pair(position: usize) -> [u8; 2] {
    let low = position as u8;
    [low, low ^ ((position >> 8) as u8 + 1)]
}

fn position([low, other]: [u8; 2]) -> usize {
    (usize::from(low ^ other) - 1) << 8 | usize::from(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_position_has_its_pair() {
        for at in 0..WINDOW {
            let pair = pair(at);
            assert_ne!(pair[0], pair[1]);
            assert_eq!(position(pair), at);
        }
    }

    #[test]
    fn a_window_keeps_the_last_of_the_output() {
        let all: Vec<u8> = (0..3 * WINDOW).map(|n| (n % 251) as u8).collect();
        for cuts in [&[0, 10, WINDOW, WINDOW + 5][..], &[WINDOW - 1, 2 * WINDOW], &[3 * WINDOW]] {
            let mut window = Vec::new();
            let mut from = 0;
            for &to in cuts {
                append(&mut window, &all[from..to]);
                assert_eq!(window, all[to.saturating_sub(WINDOW)..to]);
                from = to;
            }
        }
    }
}
