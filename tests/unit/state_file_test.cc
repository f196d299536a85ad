// Epochs, names and locks on a real file system. The system's fsync and rename are overridden in
// this program, so that their order is seen and a failing disk can be played.
#include "common/state_file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

#include "temp_folder.h"

namespace {

struct Disk {
    std::vector<std::string> calls;
    bool fsync_fails = false;
};
Disk disk;

}  // namespace

extern "C" int fsync(int file) {
    struct stat status{};
    fstat(file, &status);
    disk.calls.emplace_back(S_ISDIR(status.st_mode) ? "sync folder" : "sync file");
    if (disk.fsync_fails) {
        errno = EIO;
        return -1;
    }
    return static_cast<int>(syscall(SYS_fsync, file));
}

extern "C" int rename(const char* from, const char* to) noexcept {
    disk.calls.emplace_back("rename");
    return static_cast<int>(syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0));
}

namespace sigmacast {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class StateFileTest : public testing::Test {
 protected:
    StateFileTest() { disk = {}; }

    void write(const std::string& content) { std::ofstream(path_) << content; }
    std::string content() {
        std::ifstream file(path_);
        return {std::istreambuf_iterator<char>(file), {}};
    }
    std::string refusal(Errc code) {
        const auto raised = raise_counter(path_);
        EXPECT_FALSE(raised);
        if (raised) {
            return "";
        }
        EXPECT_EQ(code, raised.error().code);
        return raised.error().message;
    }

    TempFolder folder_;
    std::string path_ = folder_.file("epoch");
};

TEST_F(StateFileTest, ACounterStartsAtOneAndIsHigherAtEachStart) {
    EXPECT_EQ(1U, raise_counter(path_).value());
    EXPECT_EQ(2U, raise_counter(path_).value());
    EXPECT_EQ("2\n", content());
}

TEST_F(StateFileTest, ACounterIsRaisedToWhatIsAskedAndNeverLowered) {
    EXPECT_EQ(40U, raise_counter(path_, 40).value());
    EXPECT_EQ(41U, raise_counter(path_, 7).value());
}

TEST_F(StateFileTest, AnEpochIsAboveTheOneBeforeAlsoWhereItsFileWasLost) {
    const Wall now{Seconds{1'800'000'000}};
    EXPECT_EQ(1'800'000'000U, next_epoch(path_, now).value());
    EXPECT_EQ(1'800'000'001U, next_epoch(path_, now).value()) << "started twice in a second";
    EXPECT_EQ(1'800'000'002U, next_epoch(path_, Wall{Seconds{5}}).value())
        << "a clock that was put back";
    std::remove(path_.c_str());
    EXPECT_EQ(1'800'000'003U, next_epoch(path_, now + Seconds{3}).value());
}

TEST_F(StateFileTest, TheContentIsSyncedBeforeTheRenameAndTheFolderAfterIt) {
    raise_counter(path_).value();
    EXPECT_THAT(disk.calls, ElementsAre("sync file", "rename", "sync folder"));
}

TEST_F(StateFileTest, WhereTheSyncFailsTheOldCounterStaysAndTheErrorNamesTheFile) {
    write("5\n");
    disk.fsync_fails = true;
    EXPECT_THAT(refusal(Errc::kUnavailable), HasSubstr(path_));
    EXPECT_EQ("5\n", content());
    EXPECT_FALSE(std::filesystem::exists(path_ + ".new")) << "a full disk needs its room";
    disk.fsync_fails = false;
    EXPECT_EQ(6U, raise_counter(path_).value());
}

TEST_F(StateFileTest, AFullDiskLeavesTheOldCounter) {
    write("5\n");
    rlimit before{};
    ASSERT_EQ(0, getrlimit(RLIMIT_FSIZE, &before));
    const auto handler = std::signal(SIGXFSZ, SIG_IGN);
    const rlimit none{0, before.rlim_max};
    ASSERT_EQ(0, setrlimit(RLIMIT_FSIZE, &none));
    const auto raised = raise_counter(path_);
    setrlimit(RLIMIT_FSIZE, &before);
    std::signal(SIGXFSZ, handler);
    ASSERT_FALSE(raised);
    EXPECT_THAT(raised.error().message, HasSubstr(path_));
    EXPECT_EQ("5\n", content());
}

TEST_F(StateFileTest, ATornOrEmptyFileIsRefusedWithWhatToDoAndLeftAsItWas) {
    for (const char* torn : {"", "\n", "12x", "-3", "1 2", "18446744073709551616"}) {
        write(torn);
        EXPECT_THAT(refusal(Errc::kCorrupt), HasSubstr(path_ + " holds no number"));
        EXPECT_EQ(torn, content());
    }
}

TEST_F(StateFileTest, ACounterThatCannotBeRaisedIsRefusedInsteadOfStartingAgain) {
    for (const char* last : {"18446744073709551615", "9223372036854775807"}) {
        write(last);
        refusal(Errc::kCorrupt);
        EXPECT_EQ(last, content());
    }
}

TEST_F(StateFileTest, ALargeFileIsNotReadAsACounter) {
    write(std::string(5000, '1'));
    EXPECT_THAT(refusal(Errc::kTooLarge), HasSubstr("over 4 KiB"));
}

TEST_F(StateFileTest, AFolderThatIsNotThereIsNamed) {
    path_ = folder_.file("nowhere/epoch");
    EXPECT_THAT(refusal(Errc::kNotFound), HasSubstr("nowhere/epoch"));
}

/// Root may write everywhere, so the attempt is made as nobody.
TEST_F(StateFileTest, AReadOnlyFolderIsAnErrorThatNamesTheFile) {
    ASSERT_EQ(0, chmod(folder_.file("").c_str(), 0555));
    const uid_t user = geteuid();
    if (user == 0 && seteuid(65534) != 0) {
        GTEST_SKIP() << "root that cannot become nobody: no folder is read-only here";
    }
    const auto raised = raise_counter(path_);
    const auto lock = FileLock::take(path_);
    ASSERT_EQ(0, seteuid(user));
    ASSERT_EQ(0, chmod(folder_.file("").c_str(), 0700));
    ASSERT_FALSE(raised);
    EXPECT_EQ(Errc::kUnavailable, raised.error().code);
    EXPECT_THAT(raised.error().message, HasSubstr(path_));
    ASSERT_FALSE(lock);
    EXPECT_EQ(Errc::kUnavailable, lock.error().code) << "not taken for a second program";
}

TEST_F(StateFileTest, TheConfiguredNameWinsAndIsNotSaved) {
    EXPECT_EQ("nas", origin_name(path_, "nas").value());
    EXPECT_EQ("", content());
}

TEST_F(StateFileTest, TheHostsNameIsSavedAtTheFirstStartAndKeptWhenTheHostIsRenamed) {
    const std::string name = origin_name(path_, "").value();
    EXPECT_EQ(name + "\n", content());
    write("old-name\n");
    EXPECT_EQ("old-name", origin_name(path_, "").value());
}

TEST_F(StateFileTest, ASecondHolderOfALockIsRefusedUntilTheFirstLetsGo) {
    {
        const auto first = FileLock::take(path_);
        ASSERT_TRUE(first);
        const auto second = FileLock::take(path_);
        ASSERT_FALSE(second);
        EXPECT_EQ(Errc::kConflict, second.error().code);
        EXPECT_THAT(second.error().message, HasSubstr(path_));
    }
    EXPECT_TRUE(FileLock::take(path_));
}

TEST_F(StateFileTest, AMovedLockIsHeldByItsNewOwner) {
    auto first = FileLock::take(path_).value();
    {
        const FileLock second = std::move(first);
        EXPECT_FALSE(FileLock::take(path_));
    }
    EXPECT_TRUE(FileLock::take(path_));
}

TEST_F(StateFileTest, AProcessThatDiesLeavesNoLock) {
    const pid_t child = fork();
    if (child == 0) {
        const auto lock = FileLock::take(path_);
        _exit(lock ? 0 : 1);  // Without the lock's destructor.
    }
    int status = 0;
    ASSERT_EQ(child, waitpid(child, &status, 0));
    ASSERT_EQ(0, status);
    EXPECT_TRUE(FileLock::take(path_));
}

}  // namespace
}  // namespace sigmacast
