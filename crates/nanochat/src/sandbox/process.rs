//! One of the two processes of a run: Python under its limits, and the file by which it reports.

use std::fs::{self, File};
use std::io::{self, PipeReader, PipeWriter, Read, Seek, SeekFrom, Write};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::Sandbox;
use super::workdir::WorkDir;

/// What a process has marked in the first byte of its report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Python has not come to our code.
    None,
    Started,
    /// The test gives the function what is no plain value.
    NotPlain,
    Passed,
}

/// Killed with all that it started when dropped.
pub struct Process {
    child: Child,
    report: File,
    /// Of the job; what Python says itself before it runs our code comes behind it.
    length: u64,
}

impl Sandbox {
    /// Starts Python with a code of ours and a job for it. The report is the job's file and standard error: it has no
    /// name, and nobody but the process and its parent holds it.
    pub(super) fn start(
        &self,
        code: &str,
        job: &Value,
        (heard, said): (PipeReader, PipeWriter),
        folder: &WorkDir,
    ) -> io::Result<Process> {
        let path = folder.path().join("report");
        let mut file = File::options().read(true).write(true).create_new(true).open(&path)?;
        let report = File::open(&path)?; // with a position of its own
        fs::remove_file(&path)?;
        writeln!(file, " {job}")?;
        let length = file.stream_position()?;
        let mut command = Command::new(&self.python.program);
        // Isolated from the user's settings and packages, in UTF-8, writing no compiled files.
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

    pub fn mark(&mut self) -> io::Result<Mark> {
        let mut first = [0];
        self.report.seek(SeekFrom::Start(0))?;
        self.report.read_exact(&mut first)?;
        Ok(match first[0] {
            b's' => Mark::Started,
            b'o' => Mark::NotPlain,
            b'p' => Mark::Passed,
            _ => Mark::None,
        })
    }

    /// The last line that Python printed before it came to our code.
    pub fn last_words(&mut self) -> String {
        let mut bytes = Vec::new();
        let _ = self.report.seek(SeekFrom::Start(self.length)); // if it fails, there are no words
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
        // Errors mean that it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
