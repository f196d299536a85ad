// What a full disk does to the log, on a file system of 64 MiB that really is full. It is a tmpfs
// in a mount namespace of this process, which root may make, and everybody where the kernel allows
// user namespaces; elsewhere these tests are skipped and say so.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "storage/reader.h"
#include "temp_folder.h"
#include "writer_fixture.h"

namespace sigmacast::storage {
namespace {

using testing::IsEmpty;

constexpr TrimLimits kKeepAll{Seconds{1'000'000}, Seconds{1'000'000}, 0};

bool enter_own_mounts() {
    const std::string user = "0 " + std::to_string(geteuid()) + " 1";
    const std::string group = "0 " + std::to_string(getegid()) + " 1";
    if (unshare(CLONE_NEWNS) != 0) {
        if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) {
            return false;
        }
        // Without both, no file can be made.
        std::ofstream("/proc/self/uid_map") << user;
        std::ofstream("/proc/self/setgroups") << "deny";
        std::ofstream("/proc/self/gid_map") << group;
    }
    return mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
}

class FullDiskTest : public testing::Test {
 protected:
    void SetUp() override {
        static const bool own_mounts = enter_own_mounts();
        mounted_ =
            own_mounts && mount("tmpfs", disk_.c_str(), "tmpfs", 0, "size=64m,mode=0700") == 0;
        if (!mounted_) {
            GTEST_SKIP() << "no file system of its own: neither root nor user namespaces here";
        }
        open().value();
    }
    void TearDown() override {
        writer_.reset();
        store_.reset();
        if (mounted_) {
            umount2(disk_.c_str(), MNT_DETACH);
        }
    }

    Result<> open(const std::string& boot = "boot-a") {
        store_.reset();
        auto opened = Store::open(path_, rows_.now, boot);
        if (!opened) {
            return opened.error();
        }
        store_ = std::move(*opened);
        return {};
    }
    /// All the slices that there are. Returns the rows.
    std::size_t trim() {
        std::size_t all = 0;
        for (;;) {
            const std::size_t slice = store_->trim(rows_.now, kKeepAll).value();
            if (slice == 0) {
                return all;
            }
            all += slice;
        }
    }
    void write_history() {
        for (int i = 0; i < 10; ++i) {
            store_->commit(*rows_.batch(400, 1000)).value();
        }
        static_cast<void>(store_->checkpoint());
    }
    /// Somebody else takes what is left, but for this.
    void fill_disk(std::uintmax_t leave = 0) {
        const int file = ::open(other_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        const std::string block(4096, 'x');
        while (std::filesystem::space(disk_).available > leave &&
               ::write(file, block.data(), block.size()) > 0) {
        }
        ::close(file);
    }
    void empty_disk() { std::filesystem::remove(other_); }
    bool reserved() { return std::filesystem::exists(path_ + ".reserve"); }

    TempFolder folder_;
    std::string disk_ = folder_.file("");
    std::string path_ = folder_.file("s.db");
    std::string other_ = folder_.file("other");
    bool mounted_ = false;
    Rows rows_;
    std::unique_ptr<Store> store_;
    Outcomes outcomes_;
    std::optional<Writer> writer_;
};

TEST_F(FullDiskTest, WithoutAReserveNotEvenRetentionWorks) {
    write_history();
    fill_disk();
    EXPECT_EQ(Errc::kFull, store_->commit(*rows_.batch(100, 1000)).error().code);
    EXPECT_EQ(Errc::kFull, store_->trim(rows_.now, kKeepAll).error().code);
}

TEST_F(FullDiskTest, TheReserveLetsTheOldestRowsGoAndTheLogGoesOnInTheirPlace) {
    write_history();
    EXPECT_EQ(0U, trim()) << "there is room";
    ASSERT_TRUE(reserved());
    fill_disk();
    const auto size = std::filesystem::file_size(path_);
    // Ten megabytes, more than the reserve, and more than the file held when the disk was full.
    for (int i = 0; i < 50; ++i) {
        const auto batch = rows_.batch(200, 1000);
        if (!store_->commit(*batch)) {
            EXPECT_GT(trim(), 0U);
            store_->commit(*batch).value();
        }
        trim();
        static_cast<void>(store_->checkpoint());
    }
    EXPECT_FALSE(reserved());
    EXPECT_EQ(size, std::filesystem::file_size(path_));
    open().value();
    EXPECT_THAT(store_->repairs(), IsEmpty());
    EXPECT_EQ(14'000U, store_->take_loaded().pos);
}

TEST_F(FullDiskTest, OnceThereIsRoomTheReserveIsMadeAnewAndNoMoreRowsGo) {
    write_history();
    trim();
    fill_disk();
    ASSERT_FALSE(store_->commit(*rows_.batch(200, 1000)));
    EXPECT_GT(trim(), 0U);
    EXPECT_FALSE(reserved()) << "the disk is still full";
    empty_disk();
    trim();
    EXPECT_TRUE(reserved());
    store_->commit(*rows_.batch(600, 1000))
        .value();  // The spare room is used up, and the file grows.
    EXPECT_EQ(0U, trim());
}

TEST_F(FullDiskTest, AWriteAheadLogThatCannotBeCopiedIsAnErrorUntilThereIsRoom) {
    for (int i = 0; i < 10; ++i) {
        store_->commit(*rows_.batch(400, 2000)).value();  // More than the reserve gives back.
    }
    fill_disk();
    const auto refused = store_->checkpoint();
    ASSERT_FALSE(refused);
    EXPECT_EQ(Errc::kFull, refused.error().code);
    EXPECT_THAT(refused.error().message, testing::HasSubstr("write-ahead log"));
    empty_disk();
    EXPECT_TRUE(store_->checkpoint());
    EXPECT_EQ(0, store_->wal_pages());
}

TEST_F(FullDiskTest, NoReserveIsTakenFromADiskThatIsNearlyFull) {
    fill_disk(kFreeBytesMin / 2);
    trim();
    EXPECT_FALSE(reserved());
}

TEST_F(FullDiskTest, ADamagedReserveIsMadeAnew) {
    std::ofstream(path_ + ".reserve") << "half of it";
    trim();
    EXPECT_EQ(kReserveBytes, std::filesystem::file_size(path_ + ".reserve"));
}

TEST_F(FullDiskTest, AStartOnAFullDiskServesWhatTheLogHolds) {
    write_history();
    trim();
    store_.reset();
    fill_disk();
    const auto opened = open("boot-b");
    ASSERT_TRUE(opened) << opened.error().message;
    EXPECT_EQ(4'000U, store_->take_loaded().pos);
    EXPECT_FALSE(reserved());
    EXPECT_GT(trim(), 0U) << "and makes room, although no commit has been refused yet";
}

TEST_F(FullDiskTest, AStartWithoutAReserveSaysThatTheDiskIsFull) {
    write_history();
    store_.reset();
    fill_disk();
    const auto opened = open("boot-b");
    ASSERT_FALSE(opened);
    EXPECT_EQ(Errc::kFull, opened.error().code) << opened.error().message;
}

TEST_F(FullDiskTest, AWriterTakesARefusedBatchAtOneOfTheNextTries) {
    write_history();
    writer_.emplace(std::move(store_), kKeepAll,
                    [this](CommitOutcome outcome) { outcomes_.add(std::move(outcome)); });
    for (int i = 0; i < 2; ++i) {  // With the second answer, the first turn of retention is over.
        writer_->submit(rows_.batch(1));
        ASSERT_TRUE(outcomes_.next().result);
    }
    ASSERT_TRUE(reserved());
    fill_disk();
    const auto batch = rows_.batch(200, 1000);
    writer_->submit(batch);
    EXPECT_EQ(Errc::kFull, outcomes_.next().result.error().code);
    bool taken = false;
    for (int tries = 0; tries < 5 && !taken; ++tries) {
        writer_->submit(batch);
        taken = outcomes_.next().result.has_value();
    }
    EXPECT_TRUE(taken);
    writer_->stop();
    EXPECT_GT(writer_->rows_trimmed(), 0U) << "without waiting for the next turn of retention";
}

}  // namespace
}  // namespace sigmacast::storage
