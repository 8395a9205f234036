//! What the mount costs and gives: beside ext4, to which the layers are unpacked,
//! and beside ratarmount.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::bench::{Bench, REPOSITORY, text};
use crate::common::mount::Mount;
use crate::common::{self, REGISTRY};
use crate::image::{self, DATA_LAYER, EVENTS, Image};
use crate::ratarmount::Ratarmount;
use crate::report::{Goal, Report, Row, Unit};
use crate::store::Store;

/// What no file of the images has.
const NEEDLE: &str = "zqxjkvbpqzzjx";
/// Places in a file that are read.
const PLACES: u64 = 101;
const PIECE: usize = 4096;
const TAGS: usize = 10_000;

impl Bench {
    /// From the start of `registry mount --background` until it returns.
    pub fn mount_ready(&self, report: &Report) -> Result<()> {
        let image = self.cache()?.files(1000, &[])?;
        let names: Vec<String> = (0..TAGS).map(|number| format!("tag-{number}")).collect();
        for (what, tags) in [("one image", &names[..1]), ("10,000 tags", &names[..])] {
            let (dir, store) = self.stored(&[])?;
            let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
            store.repository(REPOSITORY, &store.link_image(&image)?, &tags)?;
            index(&dir, &store)?;
            let mut seconds = Vec::new();
            for round in 0..=self.options.rounds {
                let begin = Instant::now();
                let mut command = mount_command(&dir, &store);
                let mountpoint = self.folder();
                fs::create_dir(&mountpoint)?;
                common::run(command.arg("--background").arg(&mountpoint));
                if round > 0 {
                    seconds.push(begin.elapsed().as_secs_f64());
                }
                let entries = fs::read_dir(mountpoint.join("bench"))?.count();
                ensure!(entries == tags.len(), "{entries} names");
                common::run(Command::new(REGISTRY).arg("umount").arg(&mountpoint));
            }
            report.row(&Row {
                what: format!("mount ready, {what}, beside the limit"),
                unit: Unit::Seconds,
                ours: &seconds,
                other: &[0.1],
                goal: Goal::AtMost(1.0),
            });
        }
        Ok(())
    }

    /// `find` and `grep -r` over the layer of many files alone, and over what
    /// becomes of it in the image of five: all but the data layer has files there.
    pub fn mount_walk(&self, report: &Report) -> Result<()> {
        let five = self.cache()?.image()?;
        let alone = Image { layers: vec![five.layers[1].clone()] };
        self.walk(report, "1 layer", &alone, &alone, true)?;
        let mut most = five.clone();
        most.layers.remove(DATA_LAYER);
        self.walk(report, "5 layers", &five, &most, false)
    }

    /// `unpacked`: the layers of it that have something in `usr`.
    fn walk(
        &self,
        report: &Report,
        what: &str,
        image: &Image,
        unpacked: &Image,
        archive: bool,
    ) -> Result<()> {
        let mut next = image.clone();
        next.layers.push(self.cache()?.settings(1)?);
        let (dir, store) = self.stored(&[("one", image), ("next", &next)])?;
        index(&dir, &store)?;
        let folder = self.folder();
        let root = folder.join("usr");
        let [mut ours, mut ext4] = [(); 2].map(|()| Times::default());
        let (mut second, mut unpacking, mut memory) = (vec![], vec![], vec![]);
        let (mut rat_find, mut rat_grep) = (vec![], vec![]);
        for _ in 0..self.options.rounds {
            unpacking.push(unpack(unpacked, &folder)?);
            ext4.find(&root)?;
            ext4.grep(&root)?;

            let path = |mount: &Mount, tag| mount.path.join(format!("{REPOSITORY}:{tag}/usr"));
            let mounted = mount(&dir, &store);
            ours.find(&path(&mounted, "one"))?;
            drop(mounted);
            let mounted = mount(&dir, &store);
            ours.grep(&path(&mounted, "one"))?;
            second.push(grep(&path(&mounted, "next"))?);
            memory.push(peak_memory(&mounted)?);
            drop(mounted);

            if archive {
                let layer = &image.layers[0].path;
                let start = || {
                    cold()?;
                    Ratarmount::start(&self.options.dir.join("ratarmount"), layer)
                };
                // Installs it, the first time.
                drop(start()?);
                let mounted = start()?;
                rat_find.push(mounted.seconds + find(&mounted.mount.path().join("usr"))?);
                drop(mounted);
                let mounted = start()?;
                rat_grep.push(mounted.seconds + grep(&mounted.mount.path().join("usr"))?);
            }
        }
        fs::remove_dir_all(&folder)?;
        ensure!(
            ours.entries == ext4.entries,
            "{:?} entries are mounted, {:?} were unpacked",
            ours.entries,
            ext4.entries
        );
        let today: Vec<f64> =
            (unpacking.iter().zip(&ext4.grep_cold)).map(|(tar, grep)| tar + grep).collect();
        let row = |name: &str, ours: &[f64], other: &[f64], goal| {
            report.row(&Row {
                what: format!("{name}, {what}"),
                unit: Unit::Seconds,
                ours,
                other,
                goal: Goal::AtMost(goal),
            });
        };
        row("find, cold", &ours.find_cold, &ext4.find_cold, 1.0);
        row("find, warm", &ours.find_warm, &ext4.find_warm, 1.1);
        row("grep -r, cold, beside tar xzf + grep", &ours.grep_cold, &today, 0.35);
        row("grep -r, warm", &ours.grep_warm, &ext4.grep_warm, 1.2);
        row("grep -r of a second image", &second, &ext4.grep_warm, 1.3);
        if archive {
            row("find, cold, beside ratarmount", &ours.find_cold, &rat_find, 1.0);
            row("grep -r, cold, beside ratarmount", &ours.grep_cold, &rat_grep, 1.0);
        }
        report.row(&Row {
            what: format!("peak memory less the cache, {what}, limit"),
            unit: Unit::Bytes,
            ours: &memory,
            other: &[150e6],
            goal: Goal::AtMost(1.0),
        });
        Ok(())
    }

    /// A large file: from front to back, at places in no order, and once more
    /// from the page cache.
    pub fn mount_read(&self, report: &Report) -> Result<()> {
        let image = self.cache()?.image()?;
        let layer = &image.layers[DATA_LAYER];
        let (dir, store) = self.stored(&[("one", &image)])?;
        index(&dir, &store)?;
        let copy = self.temp.path().join("copy");
        let size = EVENTS.content.size as f64;
        let (mut front, mut gzip, mut places) = (vec![], vec![], vec![]);
        let (mut warm, mut ext4, mut memory) = (vec![], vec![], vec![]);
        for round in 0..=self.options.rounds {
            let mounted = mount(&dir, &store);
            let file = mounted.path.join(format!("{REPOSITORY}:one/{}", EVENTS.name));
            cold()?;
            let at_places = read_places(&file, EVENTS.content.size)?;
            drop(mounted);
            let mounted = mount(&dir, &store);
            cold()?;
            let first = read_all(&file_of(&mounted))?;
            read_all(&file_of(&mounted))?;
            let again = read_all(&file_of(&mounted))?;
            let peak = peak_memory(&mounted)?;
            if round == 0 {
                fs::copy(file_of(&mounted), &copy)?;
                common::run(Command::new("cmp").arg(&copy).arg(file_of(&mounted)));
            }
            drop(mounted);
            read_all(&copy)?;
            let other = read_all(&copy)?;
            cold()?;
            let inflated = gunzip(&layer.path)?;
            if round > 0 {
                front.push(size / first);
                gzip.push(image::data_end() as f64 / inflated);
                places.push(at_places);
                warm.push(size / again);
                ext4.push(size / other);
                memory.push(peak);
            }
        }
        let row = |what: &str, unit, ours: &[f64], other: &[f64], goal| {
            let what = what.to_owned();
            report.row(&Row { what, unit, ours, other, goal });
        };
        let speed = Unit::BytesPerSecond;
        let faster = Goal::AtLeast(1.5);
        row("680 MB file, cold, beside gzip -dc", speed, &front, &gzip, faster);
        let same = Goal::AtLeast(0.9);
        row("680 MB file, warm, beside ext4", speed, &warm, &ext4, same);
        let most = Goal::AtMost(1.0);
        let what = "4 KiB anywhere in it, cold, beside the limit";
        row(what, Unit::Seconds, &places, &[6e-3], most);
        let what = "peak memory less the cache, reading it, limit";
        row(what, Unit::Bytes, &memory, &[150e6], most);
        Ok(())
    }
}

/// Seconds, a value a round.
#[derive(Debug, Default)]
struct Times {
    find_cold: Vec<f64>,
    find_warm: Vec<f64>,
    grep_cold: Vec<f64>,
    grep_warm: Vec<f64>,
    entries: Option<usize>,
}

impl Times {
    fn find(&mut self, root: &Path) -> Result<()> {
        cold()?;
        self.find_cold.push(find(root)?);
        self.find_warm.push(find(root)?);
        let output = find_command(root).output()?;
        let lines = output.stdout.iter().filter(|&&byte| byte == b'\n').count();
        self.entries = Some(lines);
        Ok(())
    }

    fn grep(&mut self, root: &Path) -> Result<()> {
        cold()?;
        self.grep_cold.push(grep(root)?);
        // Reads what the kernel has dropped meanwhile.
        grep(root)?;
        self.grep_warm.push(grep(root)?);
        Ok(())
    }
}

fn file_of(mount: &Mount) -> PathBuf {
    mount.path.join(format!("{REPOSITORY}:one/{}", EVENTS.name))
}

fn mount(dir: &Path, store: &Store) -> Mount {
    Mount::start(dir, &["--layers", &text(&store.root)])
}

fn mount_command(dir: &Path, store: &Store) -> Command {
    let mut command = Command::new(REGISTRY);
    command.arg("mount").arg("--dir").arg(dir);
    command.arg("--layers").arg(&store.root);
    command
}

fn index(dir: &Path, store: &Store) -> Result<()> {
    let mut command = Command::new(REGISTRY);
    command.args(["index", "--all", "--dir"]).arg(dir);
    common::run(command.arg("--layers").arg(&store.root));
    Ok(())
}

/// Drops what the kernel keeps of files, which only root may.
pub fn cold() -> Result<()> {
    common::run(&mut Command::new("sync"));
    fs::write("/proc/sys/vm/drop_caches", "3").context("cannot drop the caches: be root")
}

/// Seconds to unpack all layers, one over the other, to a folder made anew.
fn unpack(image: &Image, to: &Path) -> Result<f64> {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    fs::create_dir(to)?;
    cold()?;
    let begin = Instant::now();
    for layer in &image.layers {
        let mut tar = Command::new("tar");
        tar.arg("--extract").arg("--gzip").arg("--numeric-owner");
        common::run(tar.arg("--file").arg(&layer.path).arg("--directory").arg(to));
    }
    Ok(begin.elapsed().as_secs_f64())
}

fn find_command(root: &Path) -> Command {
    let mut command = Command::new("find");
    command.arg(root).args(["-printf", "%s %m\n"]);
    command
}

fn find(root: &Path) -> Result<f64> {
    timed(&mut find_command(root), 0)
}

fn grep(root: &Path) -> Result<f64> {
    let mut command = Command::new("grep");
    command.args(["--recursive", "--fixed-strings", NEEDLE]);
    // 1: it finds nothing, and could read all.
    timed(command.arg(root), 1)
}

fn gunzip(path: &Path) -> Result<f64> {
    timed(Command::new("gzip").arg("-dc").arg(path), 0)
}

pub fn timed(command: &mut Command, code: i32) -> Result<f64> {
    let begin = Instant::now();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    let seconds = begin.elapsed().as_secs_f64();
    ensure!(status.code() == Some(code), "{command:?}: {status}");
    Ok(seconds)
}

fn read_all(path: &Path) -> Result<f64> {
    let begin = Instant::now();
    let mut bytes = 0;
    image::pieces(path, |piece| {
        bytes += piece.len() as u64;
        Ok(())
    })?;
    ensure!(bytes == EVENTS.content.size, "{bytes} bytes");
    Ok(begin.elapsed().as_secs_f64())
}

/// The median of reading a piece at each of many places, none near another.
fn read_places(path: &Path, size: u64) -> Result<f64> {
    let file = File::open(path)?;
    let mut buffer = [0; PIECE];
    let mut seconds = Vec::new();
    for number in 0..PLACES {
        // Steps of a third and a bit: in no order, and all over the file.
        let place = number * 37 % PLACES * (size / PLACES);
        let begin = Instant::now();
        file.read_exact_at(&mut buffer, place)?;
        seconds.push(begin.elapsed().as_secs_f64());
    }
    Ok(crate::report::median(&seconds))
}

/// What the process had resident at most, less the cache of decoded spans.
fn peak_memory(mount: &Mount) -> Result<f64> {
    const CACHE: f64 = (256 << 20) as f64;
    let peak = crate::servers::peak_memory(mount.pid()).context("no VmHWM")?;
    Ok(peak - CACHE)
}
