//! The functions of libnccl.so.2 that are used, by their names in nccl.h. cudarc has them too, but looks for the
//! library under other names.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use super::{DeviceError, libraries};

/// ncclUniqueId: the id of a communicator, made by rank 0 and sent to all ranks.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct UniqueId(pub [u8; 128]);

/// ncclComm_t: a rank's handle on a communicator.
pub type Communicator = *mut c_void;

/// ncclResult_t: 0 is success, 7 means that the call is still running.
pub type Code = c_int;

pub const FLOAT32: c_int = 7;
pub const BFLOAT16: c_int = 9;
pub const SUM: c_int = 0;

type Reduce = unsafe extern "C" fn(u64, u64, usize, c_int, c_int, Communicator, *mut c_void) -> Code;

pub struct Library {
    get_version: unsafe extern "C" fn(*mut c_int) -> Code,
    pub get_unique_id: unsafe extern "C" fn(*mut UniqueId) -> Code,
    pub init_rank: unsafe extern "C" fn(*mut Communicator, c_int, UniqueId, c_int) -> Code,
    pub abort: unsafe extern "C" fn(Communicator) -> Code,
    pub get_async_error: unsafe extern "C" fn(Communicator, *mut Code) -> Code,
    /// The arguments are (from, to, number of values in `to`, type, operation, …).
    pub reduce_scatter: Reduce,
    pub all_reduce: Reduce,
    /// The arguments are (from, to, number of values in `from`, type, …).
    pub all_gather: unsafe extern "C" fn(u64, u64, usize, c_int, Communicator, *mut c_void) -> Code,
    get_error_string: unsafe extern "C" fn(Code) -> *const c_char,
    get_last_error: unsafe extern "C" fn(Communicator) -> *const c_char,
    _library: libloading::Library,
}

/// Opens NCCL once per process. Fails if it is not found.
pub fn library() -> Result<&'static Library, DeviceError> {
    static LIBRARY: OnceLock<Option<Library>> = OnceLock::new();
    let open = || Library::open(&libraries::find("nccl")?).ok();
    LIBRARY.get_or_init(open).as_ref().ok_or(DeviceError::NoLibrary { library: "nccl" })
}

/// Returns the version of the library; None if it is not found.
pub fn installed_version() -> Option<libraries::Version> {
    library().ok()?.version()
}

impl Library {
    fn open(path: &str) -> Result<Library, libloading::Error> {
        // SAFETY: NVIDIA's libraries only set up their own tables when they are loaded. The types of the functions are
        // those of nccl.h, the same in all of NCCL 2, and the library stays as long as they do.
        unsafe {
            let library = libloading::Library::new(path)?;
            Ok(Library {
                get_version: *library.get(b"ncclGetVersion\0")?,
                get_unique_id: *library.get(b"ncclGetUniqueId\0")?,
                init_rank: *library.get(b"ncclCommInitRank\0")?,
                abort: *library.get(b"ncclCommAbort\0")?,
                get_async_error: *library.get(b"ncclCommGetAsyncError\0")?,
                reduce_scatter: *library.get(b"ncclReduceScatter\0")?,
                all_reduce: *library.get(b"ncclAllReduce\0")?,
                all_gather: *library.get(b"ncclAllGather\0")?,
                get_error_string: *library.get(b"ncclGetErrorString\0")?,
                get_last_error: *library.get(b"ncclGetLastError\0")?,
                _library: library,
            })
        }
    }

    /// Returns the version: (2, 28) for 2.28.3, which NCCL writes as 22803.
    pub fn version(&self) -> Option<libraries::Version> {
        let mut version = 0;
        // SAFETY: the call writes one number.
        let code = unsafe { (self.get_version)(&mut version) };
        (code == 0).then_some((version / 10_000, version % 10_000 / 100))
    }

    /// Returns NCCL's message for a failure; the communicator may be null.
    pub fn describe(&self, code: Code, communicator: Communicator) -> String {
        // SAFETY: both return text that ends in a zero byte and is never freed.
        let (what, last) = unsafe {
            let text = |text: *const c_char| match text.is_null() {
                true => String::new(),
                false => CStr::from_ptr(text).to_string_lossy().trim().replace('\n', "; "),
            };
            (text((self.get_error_string)(code)), text((self.get_last_error)(communicator)))
        };
        if last.is_empty() { what } else { format!("{what} ({last})") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::skip;

    #[test]
    fn every_function_is_found_by_its_name() {
        match library() {
            Ok(library) => assert!(library.version().is_some_and(|(major, _)| major == 2)),
            Err(error) => {
                assert!(error.to_string().contains("nccl was not found"), "{error}");
                skip("no libnccl.so.2", "NANOCHAT_REQUIRE_NCCL");
            }
        }
    }
}
