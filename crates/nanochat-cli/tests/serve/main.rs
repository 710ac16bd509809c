//! Tests the `nanochat serve` binary: valid requests, hostile ones, load, and the page in a browser.
//!
//! One test of `crowd` and those of `load`, `fuzz`, `browser`, `browser_cors` and `browser_storage` run only if
//! NANOCHAT_SLOW=1 is set; the browser is Chromium.
#![cfg(unix)]

mod addresses;
mod api;
mod browser;
mod browser_cors;
mod browser_storage;
mod clients;
mod common;
mod crowd;
mod devtools;
mod evaluation;
mod fuzz;
mod hostile;
mod load;
