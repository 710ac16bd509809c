//! `nanochat serve` by its binary: real requests, hostile ones, load, and the page in a browser.
//!
//! The tests of `load`, `browser` and `browser_storage` run where NANOCHAT_SLOW=1 is set; the browser is Chromium.
#![cfg(unix)]

mod addresses;
mod api;
mod browser;
mod clients;
mod browser_storage;
mod common;
mod devtools;
mod evaluation;
mod hostile;
mod load;
