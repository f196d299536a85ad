// Power cuts: a store works on a disk that remembers each write; at random points the power fails,
// and what may then be on the disk is opened and held against what had been acknowledged.
//
//     sigmacast-powercut --images 10000 --seed 1 [--break normal|early] [--keep DIR]
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <optional>

#include "common/log.h"
#include "tests/powercut/images.h"
#include "tests/unit/store_truth.h"
#include "tests/unit/temp_folder.h"

namespace sigmacast::storage {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kImagesOfOne = 100;  // Of one recording.
constexpr std::uint64_t kStepsMax = 90;
constexpr int kBadTold = 10;
constexpr const char* kBoot = "boot-a";

struct Options {
    std::uint64_t images = 10'000;
    std::uint64_t seed = 1;
    std::string broken;
    std::string keep;
};

struct Counts {
    std::uint64_t images = 0;
    std::uint64_t bad = 0;
    std::uint64_t recordings = 0;
    std::uint64_t records = 0;
    std::uint64_t batches = 0;
    std::uint64_t whole = 0;  // Images with something that was not synced.
};

/// One life of a store: commits, trims, checkpoints, restarts, and a disk that is full for a while.
class Life {
 public:
    Life(std::uint64_t seed, const Options& options) : options_(options), truth_(seed) {
        path_ = folder_.file("s.db");
        truth_.on_step = [this](std::uint64_t steps) { disk_.mark(steps + 1); };
        truth_.acknowledge_early = options.broken == "early";
        disk_.record();
        open();
        disk_.mark(1);
        const std::uint64_t steps = 20 + truth_.random(kStepsMax - 20);
        for (std::uint64_t i = 0; i < steps && store_; ++i) {
            live();
        }
        disk_.heal();
        store_.reset();
    }

    [[nodiscard]] const std::vector<Record>& records() const { return disk_.records(); }
    [[nodiscard]] const Truth& truth() const { return truth_; }

 private:
    void open() {
        store_.reset();
        auto opened = Store::open(path_, truth_.now(), kBoot);
        if (!opened) {
            return;  // On a full disk.
        }
        store_ = std::move(*opened);
        if (truth_.steps() == 0) {
            truth_.opened(store_->take_loaded());
        }
        if (options_.broken == "normal") {
            store_->database().execute("PRAGMA synchronous=NORMAL").value();
        }
    }

    void live() {
        truth_.advance(Seconds{1 + static_cast<std::int64_t>(truth_.random(10))});
        const std::uint64_t what = truth_.random(100);
        if (what < 70) {
            truth_.batch(*store_);
        } else if (what < 82) {
            truth_.trim(*store_, Seconds{100});
        } else if (what < 92) {
            static_cast<void>(store_->checkpoint());
        } else if (what < 96) {
            if (truth_.random(2) == 0) {
                store_->mark_clean();
            }
            open();
        } else {
            fill_disk();
        }
    }

    void fill_disk() {
        disk_.fail({Call::kWrite, How::kFull, 1 + truth_.random(8), true});
        for (int tries = 0; tries < 3; ++tries) {
            truth_.batch(*store_);
            truth_.trim(*store_, Seconds{100});
        }
        disk_.heal();
        truth_.batch(*store_);
    }

    const Options& options_;
    TempFolder folder_;
    std::string path_;
    Truth truth_;
    FaultVfs disk_;
    std::unique_ptr<Store> store_;
};

void write_image(const Image& image, const fs::path& folder) {
    fs::remove_all(folder);
    fs::create_directories(folder);
    for (const auto& [name, content] : image) {
        std::ofstream(folder / name, std::ios::binary) << content;
    }
}

class Powercut {
 public:
    explicit Powercut(Options options) : options_(std::move(options)) {}

    int run() {
        const auto began = std::chrono::steady_clock::now();
        for (std::uint64_t life = 0; counts_.images < options_.images; ++life) {
            cut(options_.seed * 1'000'003 + life);
        }
        const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
        std::printf(
            "%llu images of %llu recordings (%llu writes, syncs, truncations, deletions and marks; "
            "seed %llu), %llu bad, in %.0f s\n",
            number(counts_.images), number(counts_.recordings), number(counts_.records),
            number(options_.seed), number(counts_.bad), took.count());
        return counts_.bad == 0 ? 0 : 1;
    }

 private:
    static unsigned long long number(std::uint64_t of) { return of; }

    void cut(std::uint64_t seed) {
        std::optional<Life> life(std::in_place, seed, options_);
        const std::vector<Record> records = life->records();
        const Truth truth = life->truth();
        life.reset();
        ++counts_.recordings;
        counts_.records += records.size();
        Random random(seed);
        std::vector<std::size_t> cuts(std::min(kImagesOfOne, options_.images - counts_.images));
        for (std::size_t& at : cuts) {
            at = random.between(0, records.size());
        }
        std::sort(cuts.begin(), cuts.end());
        Disk disk(records);
        for (const std::size_t at : cuts) {
            disk.advance(at);
            ++counts_.images;
            judge(truth, disk.mark(), disk.cut(random),
                  "recording " + std::to_string(seed) + ", cut before record " +
                      std::to_string(at) + " of " + std::to_string(records.size()));
        }
    }

    void judge(const Truth& truth, std::uint64_t mark, const Image& image,
               const std::string& which) {
        const fs::path folder = folder_.file("image");
        write_image(image, folder);
        // Before the first mark the store was not open yet: nothing was promised.
        const std::string wrong = mark == 0 ? truth.judge((folder / "s.db").string(), 0)
                                            : truth.judge((folder / "s.db").string(), mark - 1);
        if (wrong.empty()) {
            return;
        }
        if (++counts_.bad <= kBadTold) {
            std::cout << "BAD: " << which << ": " << wrong << std::endl;
            if (!options_.keep.empty()) {
                write_image(image, fs::path(options_.keep) / std::to_string(counts_.bad));
            }
        }
    }

    Options options_;
    TempFolder folder_;
    Counts counts_;
};

}  // namespace
}  // namespace sigmacast::storage

int main(int argc, char** argv) {
    sigmacast::storage::Options options;
    CLI::App app{"Cuts the power under a store, many times, and looks at what is left."};
    app.add_option("--images", options.images, "How many")->capture_default_str();
    app.add_option("--seed", options.seed, "Where chance begins")->capture_default_str();
    app.add_option("--break", options.broken,
                   "A store that is wrong, to see it found: commits without a sync (normal), or "
                   "says yes before it has committed (early)")
        ->check(CLI::IsMember({"normal", "early"}));
    app.add_option("--keep", options.keep, "Keep the first bad images in this folder");
    CLI11_PARSE(app, argc, argv);
    sigmacast::log_start("powercut", "off");
    if (std::filesystem::is_directory("/dev/shm") && std::getenv("TMPDIR") == nullptr) {
        ::setenv("TMPDIR", "/dev/shm", 1);
    }
    return sigmacast::storage::Powercut(std::move(options)).run();
}
