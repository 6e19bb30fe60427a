//! Reading ahead. What a call reads of its instance and its definition lies all over memory, and of
//! a hundred thousand instances hardly any of it is in the processor's caches. A call that comes to
//! such a word waits for it; words that are read one after another, with nothing between that
//! needs them, are fetched together. So a word of each part is read before the first is needed.
//!
//! Nothing but time depends on it: what is left out is fetched when it is come to.

use std::hint::black_box;

/// Has words read that nobody looks at.
pub(crate) fn words<T: Copy>(words: T) {
    black_box(words);
}

/// Has the beginning of a text read.
pub(crate) fn text(text: &str) {
    words(text.as_bytes().first().copied());
}
