// Each call of the store to the disk fails once, or from then on: nothing that was acknowledged is
// lost, nothing that is read is wrong, and once the disk works again the store does, too.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "common/log.h"
#include "temp_folder.h"
#include "tests/unit/fault_vfs.h"
#include "tests/unit/store_truth.h"

namespace sigmacast::storage {
namespace {

namespace fs = std::filesystem;

constexpr const char* kBoot = "boot-a";
constexpr std::uint64_t kCallsMax = 30'000;

struct Case {
    Call call;
    How how;
    bool forever;
};

std::string name_of_case(const testing::TestParamInfo<Case>& info) {
    std::string name = name_of(info.param.call);
    name.erase(std::remove(name.begin(), name.end(), ' '), name.end());
    constexpr std::array<const char*, 4> kHow{"IoError", "Full", "Half", "LosesPage"};
    return name + kHow[static_cast<std::size_t>(info.param.how)] +
           (info.param.forever ? "ForEver" : "Once");
}

class VfsFaultTest : public testing::TestWithParam<Case> {
 protected:
    VfsFaultTest() {
        log_start("test", "off");
        if (fs::is_directory("/dev/shm")) {
            ::setenv("TMPDIR", "/dev/shm", 1);
        }
    }
    /// The first ones, then every so many; all of them where somebody has the time.
    static std::uint64_t next(std::uint64_t nth) {
        static const bool all = std::getenv("SIGMACAST_ALL_FAULTS") != nullptr;
        return nth + 1 + (all ? 0 : nth / 4);
    }

    /// What a broker's writer does, through a fault at the nth call. False: there are not so many.
    bool run(std::uint64_t nth) {
        const TempFolder folder;
        const std::string path = folder.file("s.db");
        FaultVfs disk;
        Truth truth(7);
        std::unique_ptr<Store> store = Store::open(path, truth.now(), kBoot).value();
        truth.opened(store->take_loaded());
        truth.batch(*store);
        truth.advance(Seconds{100});
        disk.fail({GetParam().call, GetParam().how, nth, GetParam().forever});
        use(truth, store, path);
        const bool failed = disk.failed();
        disk.heal();
        EXPECT_EQ("", recover(truth, store, path)) << "fault " << nth;
        store.reset();
        // What half a read gives, SQLite takes for the page.
        const auto harm = GetParam().how == How::kHalf && GetParam().call == Call::kRead
                              ? Truth::Harm::kLoud
                              : Truth::Harm::kNone;
        EXPECT_EQ("", truth.judge(path, truth.steps(), harm)) << "fault " << nth;
        return failed;
    }

    static void use(Truth& truth, std::unique_ptr<Store>& store, const std::string& path) {
        for (int i = 0; i < 6; ++i) {
            truth.batch(*store, 4);
            truth.advance(Seconds{10});
            if (i == 2) {
                static_cast<void>(store->checkpoint());
            } else if (i == 3) {
                truth.trim(*store, Seconds{50});
            } else if (i == 4) {
                store->mark_clean();
                store.reset();
                auto opened = Store::open(path, truth.now(), kBoot);
                if (!opened) {
                    return;  // As the broker does. The supervisor starts it again.
                }
                store = std::move(*opened);
            }
        }
    }

    /// The disk works again: so does the store, at once or after a restart.
    static std::string recover(Truth& truth, std::unique_ptr<Store>& store,
                               const std::string& path) {
        if (store && truth.batch(*store)) {
            return "";
        }
        store.reset();
        auto opened = Store::open(path, truth.now(), kBoot);
        if (!opened) {
            return opened.error().message;
        }
        store = std::move(*opened);
        return "";
    }
};

TEST_P(VfsFaultTest, NothingAcknowledgedIsLostAndTheStoreRecovers) {
    std::uint64_t faults = 0;
    for (std::uint64_t nth = 1; nth < kCallsMax && run(nth); nth = next(nth)) {
        ++faults;
        if (HasFailure()) {
            return;
        }
    }
    EXPECT_GT(faults, 0U) << "no such call was made";
    RecordProperty("faults", static_cast<int>(faults));
}

INSTANTIATE_TEST_SUITE_P(
    EachCall, VfsFaultTest,
    testing::Values(
        Case{Call::kOpen, How::kIoError, false}, Case{Call::kOpen, How::kIoError, true},
        Case{Call::kDelete, How::kIoError, false}, Case{Call::kDelete, How::kIoError, true},
        Case{Call::kRead, How::kIoError, false}, Case{Call::kRead, How::kIoError, true},
        Case{Call::kRead, How::kHalf, false}, Case{Call::kRead, How::kHalf, true},
        Case{Call::kWrite, How::kIoError, false}, Case{Call::kWrite, How::kIoError, true},
        Case{Call::kWrite, How::kFull, false}, Case{Call::kWrite, How::kFull, true},
        Case{Call::kWrite, How::kHalf, false}, Case{Call::kWrite, How::kHalf, true},
        Case{Call::kTruncate, How::kIoError, false}, Case{Call::kTruncate, How::kIoError, true},
        Case{Call::kSync, How::kIoError, false}, Case{Call::kSync, How::kIoError, true},
        Case{Call::kSync, How::kFull, false}, Case{Call::kSync, How::kLosesPage, false},
        Case{Call::kSync, How::kLosesPage, true}, Case{Call::kFileSize, How::kIoError, false},
        Case{Call::kFileSize, How::kIoError, true}, Case{Call::kLock, How::kIoError, false},
        Case{Call::kLock, How::kIoError, true}, Case{Call::kShmMap, How::kIoError, false},
        Case{Call::kShmMap, How::kIoError, true}, Case{Call::kShmLock, How::kIoError, false},
        Case{Call::kShmLock, How::kIoError, true}),
    name_of_case);

}  // namespace
}  // namespace sigmacast::storage
