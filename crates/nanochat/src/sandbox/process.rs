//! One of the two processes of a run: Python with its limits, and the file in which it reports.

use std::fs::{self, File};
use std::io::{self, PipeReader, PipeWriter, Read, Seek, SeekFrom, Write};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::Sandbox;
use super::workdir::WorkDir;

/// The state that a process has written to the first byte of its report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputMark {
    /// Python has not reached our code.
    None,
    Started,
    /// The test passes the function a value that is not plain.
    NotPlain,
    Passed,
}

/// A running process, killed when dropped together with all processes that it started.
pub struct Process {
    child: Child,
    report: File,
    /// The length of the job in the report; messages of Python itself, before it runs our code, follow it.
    length: u64,
}

impl Sandbox {
    /// Starts Python with our `code` and a job for it. The report is the job's file and also standard error. The file
    /// has no name, and only the process and its parent have it open.
    pub(super) fn start(
        &self,
        code: &str,
        job: &Value,
        (heard, said): (PipeReader, PipeWriter),
        folder: &WorkDir,
    ) -> io::Result<Process> {
        let path = folder.path().join("report");
        let mut file = File::options().read(true).write(true).create_new(true).open(&path)?;
        let report = File::open(&path)?; // a second descriptor has its own position
        fs::remove_file(&path)?;
        writeln!(file, " {job}")?;
        let length = file.stream_position()?;
        let mut command = Command::new(&self.python.program);
        // Options: isolate from the user's settings and packages, use UTF-8, write no compiled files.
        let arguments = ["-I", "-S", "-B", "-X", "utf8", "-c", code];
        command.args(arguments).env_clear().current_dir(folder.path());
        command.stdin(heard).stdout(said).stderr(Stdio::from(file));
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        #[cfg(target_os = "linux")]
        {
            let Sandbox { python, own_root, landlock, .. } = self;
            let confined =
                || super::linux::Confinement::new(python, &arguments, folder.path(), *own_root, *landlock);
            super::linux::limit(&mut command, self.confined.then(confined).transpose()?);
        }
        Ok(Process { child: command.spawn()?, report, length })
    }
}

impl Process {
    #[cfg(all(test, target_os = "linux"))]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    #[cfg(target_os = "linux")]
    pub fn has_ended(&mut self) -> io::Result<bool> {
        super::linux::has_ended(self.child.id())
    }

    #[cfg(not(target_os = "linux"))]
    pub fn has_ended(&mut self) -> io::Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    pub fn mark(&mut self) -> io::Result<OutputMark> {
        let mut first = [0];
        self.report.seek(SeekFrom::Start(0))?;
        self.report.read_exact(&mut first)?;
        Ok(match first[0] {
            b's' => OutputMark::Started,
            b'o' => OutputMark::NotPlain,
            b'p' => OutputMark::Passed,
            _ => OutputMark::None,
        })
    }

    /// Returns the last line that Python printed before it reached our code.
    pub fn last_words(&mut self) -> String {
        let mut bytes = Vec::new();
        let _ = self.report.seek(SeekFrom::Start(self.length)); // if this fails, the text is empty
        let _ = (&self.report).take(10_000).read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes);
        let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("without a word");
        last.trim().chars().take(200).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        #[cfg(target_os = "linux")]
        super::linux::kill_group(self.child.id());
        // An error means that the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
