// The compression of our engine: which files, how they are written, the queue, and the methods.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zstd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "producer/host_engine/compression.h"
#include "producer/host_engine/compressor.h"
#include "producer/host_engine/folders.h"
#include "producer/host_engine/job_queue.h"
#include "tests/unit/temp_folder.h"

namespace sigmacast::host_engine {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;
using testing::UnorderedElementsAre;

std::string content_of(const std::string& path) {
    std::stringstream text;
    text << std::ifstream(path, std::ios::binary).rdbuf();
    return text.str();
}

void write(const std::string& path, const std::string& content) {
    std::ofstream(path, std::ios::binary) << content;
}

std::string text_of_size(std::size_t size) {
    std::string text;
    for (std::size_t line = 0; text.size() < size; ++line) {
        text += "line " + std::to_string(line * 2'654'435'761u) + "\n";
    }
    text.resize(size);
    return text;
}

std::string expanded(const std::string& compressed, std::size_t size) {
    std::string text(size, '\0');
    const std::size_t done =
        ZSTD_decompress(text.data(), text.size(), compressed.data(), compressed.size());
    return ZSTD_isError(done) ? ZSTD_getErrorName(done) : text.substr(0, done);
}

std::vector<std::string> names_in(const std::string& folder) {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder)) {
        names.push_back(entry.path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return names;
}

template <class T>
std::string problem(const Result<T>& result) {
    return result ? "none" : result.error().message;
}

/// A folder in which files may be compressed, one outside of it, and one for notes.
class Files : public testing::Test {
 protected:
    Files() {
        for (const char* folder : {"media", "outside", "state"}) {
            fs::create_directory(temp_.file(folder));
        }
        options_.state_folder = temp_.file("state");
    }

    [[nodiscard]] std::string media(const std::string& name) const {
        return temp_.file("media/" + name);
    }
    [[nodiscard]] std::string outside(const std::string& name) const {
        return temp_.file("outside/" + name);
    }
    [[nodiscard]] Folders folders(Folders::Walk walk = Folders::Walk::kKernel) const {
        return Folders({temp_.file("media")}, walk);
    }
    Result<Progress> compress(const std::string& path, const CompressCalls& calls = kGoOn) {
        return compress_file(folders(), path, options_, calls);
    }
    /// With something done to the file between its first and its second block.
    Result<Progress> compress_while(const std::string& path, const std::function<void()>& event) {
        bool done = false;
        return compress(path, {.advanced =
                                   [&](const Progress& progress) {
                                       if (progress.bytes_read > 0 && !std::exchange(done, true)) {
                                           event();
                                       }
                                       return true;
                                   },
                               .may_appear = [] { return true; }});
    }

    inline static const CompressCalls kGoOn{.advanced = [](const Progress&) { return true; },
                                            .may_appear = [] { return true; }};
    TempFolder temp_;
    CompressOptions options_;
};

// ------------------------------------------------------------------------------------ the path
// rule

class PathRule : public Files, public testing::WithParamInterface<Folders::Walk> {
 protected:
    [[nodiscard]] std::string opened(const std::string& path) const {
        const Result<Place> place = folders(GetParam()).open_parent(path);
        return problem(place ? open_regular(*place, path) : place.error());
    }
};

INSTANTIATE_TEST_SUITE_P(Walks, PathRule,
                         testing::Values(Folders::Walk::kKernel, Folders::Walk::kOwn),
                         [](const auto& walk) {
                             return walk.param == Folders::Walk::kKernel ? "Kernel" : "Own";
                         });

TEST_P(PathRule, FilesBelowTheFolderAreOpenedHoweverTheirPathIsSpelled) {
    fs::create_directories(media("a/b"));
    write(media("top"), "x");
    write(media("a/b/deep"), "x");
    EXPECT_EQ(opened(media("top")), "none");
    EXPECT_EQ(opened(media("a/b/deep")), "none");
    EXPECT_EQ(opened(media("/a/./b//deep")), "none");
}

TEST_P(PathRule, WhatIsOutsideOfTheFoldersIsRefusedByName) {
    write(outside("x"), "secret");
    fs::create_directory(temp_.file("media2"));
    write(temp_.file("media2/x"), "x");
    for (const std::string& path :
         {outside("x"), std::string("/etc/passwd"), media("../outside/x"), media(".."),
          temp_.file("media2/x"), temp_.file("media"), media(""), std::string("media/x"),
          std::string(), std::string("x"), media(std::string("a\0b", 3)),
          media(std::string(5'000, 'x'))}) {
        const Result<std::string> checked = folders(GetParam()).check(path);
        ASSERT_FALSE(checked) << path;
        EXPECT_EQ(checked.error().code, Errc::kInvalid) << path;
        EXPECT_THAT(opened(path), StartsWith("source_path ")) << path;
    }
    EXPECT_THAT(opened(outside("x")), HasSubstr(temp_.file("media"))) << "says where it may be";
}

TEST_P(PathRule, NoLinkLeadsOutOfTheFolder) {
    write(outside("secret"), "secret");
    write(media("inside"), "x");
    fs::create_directory_symlink(temp_.file("outside"), media("absolute"));
    fs::create_directory_symlink("../outside", media("relative"));
    fs::create_directory_symlink(".", media("self"));
    fs::create_symlink(outside("secret"), media("file"));
    fs::create_symlink(media("inside"), media("harmless"));
    fs::create_symlink("nowhere", media("dangling"));
    EXPECT_THAT(opened(media("absolute/secret")), HasSubstr("leads through a link"));
    EXPECT_THAT(opened(media("relative/secret")), HasSubstr("leads through a link"));
    EXPECT_THAT(opened(media("self/inside")), HasSubstr("leads through a link"));
    EXPECT_THAT(opened(media("file")), HasSubstr("is a link"));
    EXPECT_THAT(opened(media("harmless")), HasSubstr("is a link"));
    EXPECT_THAT(opened(media("dangling")), HasSubstr("is a link"));
    EXPECT_THAT(opened(media("inside/x")), HasSubstr("no folder"));
}

TEST_P(PathRule, NothingButOrdinaryFilesIsOpened) {
    ASSERT_EQ(::mkfifo(media("pipe").c_str(), 0600), 0);
    fs::create_directory(media("folder"));
    const int plug = ::socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    media("socket").copy(address.sun_path, sizeof address.sun_path - 1);
    ASSERT_EQ(::bind(plug, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    ::close(plug);
    EXPECT_THAT(opened(media("pipe")), HasSubstr("is a pipe"));
    EXPECT_THAT(opened(media("folder")), HasSubstr("is a folder"));
    EXPECT_THAT(opened(media("socket")), HasSubstr("is a socket"));
    const Folders devices({"/dev"}, GetParam());
    const Result<Place> place = devices.open_parent("/dev/null");
    ASSERT_TRUE(place);
    EXPECT_THAT(problem(open_regular(*place, "/dev/null")), HasSubstr("is a device"));
    EXPECT_EQ(opened(media("gone")), "Input file not found: " + media("gone"));
    EXPECT_EQ(opened(media("gone/too")), "Input file not found: " + media("gone/too"));
}

TEST_P(PathRule, AFolderThatIsConfiguredByALinkIsKnownByBothNames) {
    write(media("x"), "x");
    fs::create_directory_symlink(temp_.file("media"), temp_.file("by-link"));
    const Folders linked({temp_.file("by-link/")}, GetParam());
    EXPECT_TRUE(linked.open_parent(temp_.file("by-link/x")));
    EXPECT_TRUE(linked.open_parent(media("x")));
}

// ------------------------------------------------------------------------------------------ one
// file

class Writing : public Files, public testing::WithParamInterface<bool> {
 protected:
    Writing() { options_.unnamed = GetParam(); }
};

INSTANTIATE_TEST_SUITE_P(Outputs, Writing, testing::Bool(), [](const auto& unnamed) {
    return unnamed.param ? "Unnamed" : "Temporary";
});

TEST_P(Writing, TheOutputIsTheOriginalCompressedAndTheOriginalStaysAsItWas) {
    const std::string text = text_of_size(1'000'000);
    write(media("x"), text);
    fs::permissions(media("x"), fs::perms(0640));
    const auto time = fs::last_write_time(media("x"));
    const Result<Progress> done = compress(media("x"));
    ASSERT_TRUE(done) << done.error().message;
    EXPECT_EQ(done->bytes_read, text.size());
    EXPECT_EQ(done->bytes_total, text.size());
    EXPECT_EQ(done->bytes_written, fs::file_size(media("x.zst")));
    EXPECT_LT(done->bytes_written, text.size() / 2);
    EXPECT_EQ(expanded(content_of(media("x.zst")), text.size()), text);
    EXPECT_EQ(content_of(media("x")), text);
    EXPECT_EQ(fs::last_write_time(media("x")), time);
    EXPECT_EQ(fs::status(media("x.zst")).permissions(), fs::perms(0640));
    EXPECT_THAT(names_in(temp_.file("media")), ElementsAre("x", "x.zst"));
    EXPECT_THAT(names_in(temp_.file("state")), IsEmpty());
}

TEST_P(Writing, AnEmptyFileIsCompressedToo) {
    write(media("x"), "");
    ASSERT_TRUE(compress(media("x")));
    EXPECT_EQ(expanded(content_of(media("x.zst")), 10), "");
}

TEST_P(Writing, NoSpecialBitIsHandedOn) {
    write(media("x"), "x");
    ASSERT_EQ(::chmod(media("x").c_str(), 04755), 0);
    ASSERT_TRUE(compress(media("x")));
    EXPECT_EQ(fs::status(media("x.zst")).permissions(), fs::perms(0755));
}

TEST_P(Writing, WhatIsThereAlreadyIsNotReplaced) {
    write(media("x"), "x");
    write(media("x.zst"), "mine");
    const Result<Progress> done = compress(media("x"));
    ASSERT_FALSE(done);
    EXPECT_EQ(done.error().code, Errc::kConflict);
    EXPECT_THAT(done.error().message, HasSubstr(media("x.zst") + "' is there already"));
    EXPECT_EQ(content_of(media("x.zst")), "mine");
}

TEST_P(Writing, WhatAppearsMeanwhileIsNotReplacedEither) {
    write(media("x"), text_of_size(500'000));
    fs::create_symlink("nowhere", media("y.zst"));
    write(media("y"), "y");
    const Result<Progress> done =
        compress_while(media("x"), [&] { write(media("x.zst"), "mine"); });
    ASSERT_FALSE(done);
    EXPECT_EQ(done.error().code, Errc::kConflict);
    EXPECT_EQ(content_of(media("x.zst")), "mine");
    EXPECT_FALSE(compress(media("y"))) << "a link that leads nowhere is something, too";
    EXPECT_THAT(names_in(temp_.file("media")), ElementsAre("x", "x.zst", "y", "y.zst"));
    EXPECT_THAT(names_in(temp_.file("state")), IsEmpty());
}

TEST_P(Writing, AFileThatChangesWhileItIsReadIsAFailureAndLeavesNothing) {
    const std::string text = text_of_size(500'000);
    const std::vector<std::pair<std::string, std::function<void(const std::string&)>>> changes{
        {"shrinks", [](const std::string& path) { fs::resize_file(path, 200'000); }},
        {"vanishes", [](const std::string& path) { fs::resize_file(path, 0); }},
        {"grows",
         [](const std::string& path) { std::ofstream(path, std::ios::app) << "one more"; }},
        {"is rewritten", [](const std::string& path) {
             std::fstream(path, std::ios::in | std::ios::out) << "other";
             // Not by the clock: its ticks may be longer than this test.
             fs::last_write_time(path, fs::last_write_time(path) + std::chrono::seconds(1));
         }}};
    for (const auto& [name, change] : changes) {
        const std::string path = media("x");
        write(path, text);
        const Result<Progress> done = compress_while(path, [&] { change(path); });
        ASSERT_FALSE(done) << name;
        EXPECT_THAT(done.error().message, HasSubstr("changed while it was read")) << name;
        EXPECT_THAT(names_in(temp_.file("media")), ElementsAre("x")) << name;
        EXPECT_THAT(names_in(temp_.file("state")), IsEmpty()) << name;
    }
}

TEST_P(Writing, ACancelledOneLeavesNothingAtEitherEnd) {
    write(media("x"), text_of_size(500'000));
    int calls = 0;
    EXPECT_FALSE(compress(media("x"), {.advanced = [&](const Progress&) { return ++calls < 3; },
                                       .may_appear = [] { return true; }}));
    EXPECT_EQ(calls, 3) << "no work after the no";
    EXPECT_FALSE(compress(media("x"), {.advanced = [](const Progress&) { return true; },
                                       .may_appear = [] { return false; }}));
    EXPECT_THAT(names_in(temp_.file("media")), ElementsAre("x"));
    EXPECT_THAT(names_in(temp_.file("state")), IsEmpty());
}

TEST_P(Writing, NothingHasTheOutputsNameBeforeItIsWhole) {
    write(media("x"), text_of_size(500'000));
    bool early = false;
    ASSERT_TRUE(compress(media("x"), {.advanced =
                                          [&](const Progress&) {
                                              early = early || fs::exists(media("x.zst"));
                                              return true;
                                          },
                                      .may_appear =
                                          [&] {
                                              early = early || fs::exists(media("x.zst"));
                                              return true;
                                          }}));
    EXPECT_FALSE(early);
}

TEST_P(Writing, WhatACrashLeftIsGoneAfterTheNextStart) {
    write(media("x"), text_of_size(500'000));
    const pid_t child = ::fork();
    if (child == 0) {
        (void)compress_while(media("x"), [] { ::_exit(7); });
        ::_exit(1);
    }
    int ended = 0;
    ASSERT_EQ(::waitpid(child, &ended, 0), child);
    ASSERT_EQ(WEXITSTATUS(ended), 7) << "it died in the middle";
    EXPECT_EQ(names_in(temp_.file("media")).size(), GetParam() ? 1u : 2u);
    remove_leftovers(folders(), options_.state_folder);
    EXPECT_THAT(names_in(temp_.file("media")), ElementsAre("x"));
    EXPECT_THAT(names_in(temp_.file("state")), IsEmpty());
}

TEST_P(Writing, AFullDiskIsAFailureThatSaysSoAndLeavesNothing) {
    std::string noise(2'000'000, '\0');
    std::mt19937 random(7);
    std::generate(noise.begin(), noise.end(), [&] { return static_cast<char>(random()); });
    write(media("x"), noise);
    rlimit before{};
    ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
    rlimit small = before;
    small.rlim_cur = 1'000'000;
    ::setrlimit(RLIMIT_FSIZE, &small);
    // A thread of its own, because the signal of this limit has to be blocked as in a worker.
    Result<Progress> done = Error{};
    std::thread([&] {
        sigset_t all;
        ::sigfillset(&all);
        ::pthread_sigmask(SIG_BLOCK, &all, nullptr);
        done = compress(media("x"));
    }).join();
    ::setrlimit(RLIMIT_FSIZE, &before);
    ASSERT_FALSE(done);
    EXPECT_EQ(done.error().code, Errc::kFull);
    EXPECT_THAT(done.error().message, HasSubstr("no room for '" + media("x.zst")));
    EXPECT_THAT(names_in(temp_.file("media")), ElementsAre("x"));
}

TEST_F(Files, ANoteNeverRemovesWhatIsNoTemporaryFileOfOurs) {
    write(media("precious"), "x");
    write(outside(".sigmacast-0.part"), "x");
    fs::create_directory_symlink(temp_.file("outside"), media("link"));
    write(temp_.file("state/1"), media("precious"));
    write(temp_.file("state/2"), outside(".sigmacast-0.part"));
    write(temp_.file("state/3"), media("link/.sigmacast-0.part"));
    write(temp_.file("state/4"), media("gone/.sigmacast-0.part"));
    remove_leftovers(folders(), options_.state_folder);
    EXPECT_TRUE(fs::exists(media("precious")));
    EXPECT_TRUE(fs::exists(outside(".sigmacast-0.part")));
    EXPECT_THAT(names_in(temp_.file("state")), ElementsAre("1", "2", "3")) << "4 is done with";
}

TEST_F(Files, ANameThatHasNoRoomForTheEndingIsRefusedBeforeAnyWork) {
    const std::string path = media(std::string(253, 'x'));
    write(path, "x");
    bool worked = false;
    EXPECT_THAT(problem(compress(path, {.advanced = [&](const Progress&) { return worked = true; },
                                        .may_appear = [] { return true; }})),
                HasSubstr("too long"));
    EXPECT_FALSE(worked);
}

// ----------------------------------------------------------------------------------------- the
// queue

Now at(int seconds) {
    return {Mono{} + std::chrono::seconds(seconds),
            Wall(Millis(1'795'219'057'005)) + std::chrono::seconds(seconds)};
}

class Queue : public testing::Test {
 protected:
    void submit(const std::string& id, Priority priority = Priority::kNormal, int second = 0) {
        ASSERT_TRUE(queue_.submit(id, "/m/" + id, priority, at(second)));
    }
    std::string take(int second = 0) {
        const auto task = queue_.take(at(second));
        return task ? task->id : "none";
    }
    [[nodiscard]] json::object status(const std::string& id, int second = 0) const {
        return queue_.status(id, at(second)).value();
    }
    [[nodiscard]] std::vector<std::string> listed(bool pending = true,
                                                  std::size_t limit = 50) const {
        std::vector<std::string> ids;
        const json::object list = queue_.list(pending, limit, at(0));
        for (const json::value& row : list.at("jobs").as_array()) {
            ids.emplace_back(row.at("job_id").as_string());
        }
        return ids;
    }
    JobQueue queue_;
};

TEST_F(Queue, TheMostUrgentGoesFirstAndOfThoseTheOldest) {
    submit("a", Priority::kLow);
    submit("b");
    submit("c", Priority::kCritical);
    submit("d", Priority::kHigh);
    submit("e", Priority::kHigh);
    const std::vector<std::string> order{take(), take(), take(), take(), take(), take()};
    EXPECT_THAT(order, ElementsAre("c", "d", "e", "b", "a", "none"));
}

TEST_F(Queue, ProgressRatioAndEtaAreInTheRecordedUnits) {
    submit("a");
    take(1);
    ASSERT_TRUE(queue_.advance(
        "a", {.bytes_total = 303'947'369, .bytes_read = 46'137'344, .bytes_written = 35'096'000}));
    const json::object row = queue_.list(true, 50, at(11)).at("jobs").at(0).as_object();
    EXPECT_DOUBLE_EQ(row.at("progress").to_number<double>(), 15.179385875848789);
    EXPECT_DOUBLE_EQ(row.at("elapsed_seconds").to_number<double>(), 10.0);
    EXPECT_NEAR(row.at("eta_seconds").to_number<double>(), 55.8788, 0.001);
    EXPECT_NEAR(row.at("current_ratio").to_number<double>(), 1.3146, 0.0001);
    EXPECT_EQ(row.at("output_path"), "/m/a.zst");
}

TEST_F(Queue, ThoseThatRunAreListedFirstAndOfBothTheNewest) {
    for (const char* id : {"a", "b", "c", "d"}) {
        submit(id);
    }
    take();
    take();
    EXPECT_THAT(listed(), ElementsAre("b", "a", "d", "c"));
    EXPECT_THAT(listed(false), ElementsAre("b", "a"));
    EXPECT_THAT(listed(true, 3), ElementsAre("b", "a", "d"));
    EXPECT_THAT(listed(true, 0), IsEmpty());
}

TEST_F(Queue, AnEndedJobLeavesTheListAndItsEndIsTold) {
    submit("a");
    submit("b");
    take(1);
    take(1);
    queue_.finish("a", Progress{100, 100, 40}, at(3));
    queue_.finish("b", Error{Errc::kFull, "no room"}, at(4));
    EXPECT_THAT(listed(), IsEmpty());
    const json::object done = status("a", 99);
    EXPECT_EQ(done.at("status"), "completed");
    EXPECT_EQ(done.at("progress"), 100.0);
    EXPECT_EQ(done.at("elapsed_seconds"), 2.0) << "it does not run on";
    EXPECT_EQ(done.at("current_ratio"), 2.5);
    EXPECT_EQ(done.at("eta_seconds"), 0.0);
    EXPECT_EQ(done.at("completed_at"), "2026-11-20T23:57:40.005000");
    EXPECT_TRUE(done.at("error").is_null());
    const json::object failed = status("b");
    EXPECT_EQ(failed.at("status"), "failed");
    EXPECT_EQ(failed.at("error"), "no room");
    EXPECT_NE(failed.at("progress"), 100.0) << "the recorded engine says 100 here";
}

TEST_F(Queue, ACancelledJobHasEndedAtOnceAndItsWorkerLearnsOfIt) {
    submit("a");
    submit("b");
    take();
    EXPECT_TRUE(queue_.cancel("a", at(1)).value());
    EXPECT_TRUE(queue_.cancel("b", at(1)).value());
    EXPECT_FALSE(queue_.cancel("b", at(1)).value()) << "it has ended";
    EXPECT_FALSE(queue_.advance("a", {}));
    EXPECT_FALSE(queue_.commit("a"));
    queue_.finish("a", Progress{1, 1, 1}, at(2));
    EXPECT_EQ(status("a").at("status"), "cancelled");
    EXPECT_EQ(take(), "none");
    EXPECT_EQ(problem(queue_.cancel("c", at(1))), "Job not found: c");
}

TEST_F(Queue, WhatIsAboutToAppearCannotBeCancelled) {
    submit("a");
    take();
    ASSERT_TRUE(queue_.commit("a"));
    EXPECT_FALSE(queue_.cancel("a", at(1)).value());
    queue_.finish("a", Progress{1, 1, 1}, at(2));
    EXPECT_EQ(status("a").at("status"), "completed");
}

TEST_F(Queue, AJobThatWaitsHasASizeOrFailsOnceItIsLookedAt) {
    submit("a");
    submit("b");
    submit("c");
    EXPECT_EQ(queue_.take_unsized()->id, "a");
    EXPECT_EQ(queue_.take_unsized()->id, "b");
    EXPECT_EQ(take(), "a");
    queue_.sized("a", Error{Errc::kNotFound, "too late to say"}, at(1));
    EXPECT_EQ(status("a").at("status"), "running") << "its worker knows better";
    queue_.sized("b", Error{Errc::kNotFound, "Input file not found: /m/b"}, at(1));
    EXPECT_EQ(status("b").at("error"), "Input file not found: /m/b");
    EXPECT_EQ(queue_.take_unsized()->id, "c");
    queue_.sized("c", std::uint64_t{7}, at(1));
    EXPECT_EQ(status("c").at("bytes_total"), 7);
    EXPECT_FALSE(queue_.take_unsized());
}

TEST_F(Queue, MoreThanTheBoundMayNotWait) {
    for (std::size_t i = 0; i < kPendingMax; ++i) {
        submit(std::to_string(i));
    }
    const auto refused = queue_.submit("more", "/m/more", Priority::kNormal, at(0));
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, Errc::kFull);
    take();
    EXPECT_TRUE(queue_.submit("more", "/m/more", Priority::kNormal, at(0)));
}

TEST_F(Queue, TheOldestEndIsForgottenAndStillCounts) {
    for (std::size_t i = 0; i < kEndedMax + 2; ++i) {
        submit(std::to_string(i));
        take();
        queue_.finish(std::to_string(i), Progress{10, 10, 5}, at(1));
    }
    EXPECT_EQ(problem(queue_.status("0", at(1))), "Job not found: 0");
    EXPECT_EQ(problem(queue_.status("1", at(1))), "Job not found: 1");
    EXPECT_EQ(status("2").at("status"), "completed");
    EXPECT_EQ(queue_.totals(2).at("completed"), kEndedMax + 2);
    EXPECT_EQ(queue_.stats().at("bytes_saved"), 5 * (kEndedMax + 2));
    EXPECT_EQ(queue_.stats().at("average_ratio"), 2.0);
}

// --------------------------------------------------------------------------------------- the
// methods

struct Recorded {
    json::object request;
    json::value response;
    std::string body;
};

Recorded recorded(const std::string& name) {
    const json::object all = json::parse(content_of(std::string(SIGMACAST_TEST_DATA) +
                                                    "/engine-captures/" + name + ".json"))
                                 .as_object();
    const std::string body(all.at("body").as_string());
    return {json::parse(all.at("request").at("body").as_string()).as_object(), json::parse(body),
            body};
}

std::vector<std::string> members_of(const json::value& value) {
    std::vector<std::string> names;
    for (const auto& [name, member] : value.as_object()) {
        names.emplace_back(name);
    }
    return names;
}

class CompressionMethods : public Files {
 protected:
    CompressionMethods()
        : compression_({.folders = {temp_.file("media")}, .state_folder = temp_.file("state")}),
          methods_(compression_.methods()) {}

    json::object call(const std::string& method, const json::object& params,
                      const http::Headers& more = {}) {
        return json::parse(
                   raw(json::serialize(json::object{
                           {"jsonrpc", "2.0"}, {"method", method}, {"params", params}, {"id", 1}}),
                       more))
            .as_object();
    }
    std::string raw(const std::string& body, const http::Headers& more = {}) {
        http::Request request;
        request.method = "POST";
        request.path = kRpcPath;
        request.body = body;
        request.headers = more;
        return answer(request, methods_).body;
    }
    json::object result(const std::string& method, const json::object& params = {}) {
        return call(method, params).at("result").as_object();
    }
    json::object error(const std::string& method, const json::object& params = {}) {
        return call(method, params).at("error").as_object();
    }
    std::string submit(const std::string& path) {
        return std::string(
            result("compression.queue.submit", {{"source_path", path}}).at("job_id").as_string());
    }
    /// Its last status; waits for it, with a deadline.
    json::object end_of(const std::string& id) {
        const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
        for (;;) {
            json::object status = result("compression.queue.status", {{"job_id", id}});
            if (!status.at("completed_at").is_null() ||
                std::chrono::steady_clock::now() > deadline) {
                return status;
            }
            std::this_thread::yield();
        }
    }

    Compression compression_;
    Methods methods_;
};

TEST_F(CompressionMethods, AnIdleQueueAnswersAsRecorded) {
    for (const char* name : {"compression_queue_running_empty", "compression_stats_empty"}) {
        Recorded was = recorded(name);
        // Our writer spells the same number without its point.
        if (const std::size_t at = was.body.find(":0.0,"); at != std::string::npos) {
            was.body.erase(at + 2, 2);
        }
        EXPECT_EQ(raw(json::serialize(was.request)), was.body) << name;
    }
    EXPECT_EQ(raw(json::serialize(recorded("queue_status_unknown_job").request)),
              recorded("queue_status_unknown_job").body);
}

TEST_F(CompressionMethods, AnswersBeginWithTheRecordedMembersInTheirOrder) {
    write(media("x"), "x");
    const std::string id = submit(media("x"));  // No worker runs: it waits.
    const auto recorded_members = [](const char* name) {
        return members_of(recorded(name).response.at("result"));
    };
    EXPECT_EQ(members_of(result("compression.queue.submit", {{"source_path", media("x")}})),
              recorded_members("queue_submit_1"));
    EXPECT_EQ(members_of(result("compression.queue.status")), recorded_members("queue_status_all"));
    EXPECT_EQ(members_of(result("compression.queue.running").at("jobs").at(0)),
              members_of(recorded("queue_running_live_03").response.at("result").at("jobs").at(0)));
    auto status = members_of(result("compression.queue.status", {{"job_id", id}}));
    const auto was = recorded_members("queue_status_completed");
    ASSERT_GE(status.size(), was.size());
    status.resize(was.size());
    EXPECT_EQ(status, was);
    EXPECT_EQ(members_of(result("compression.queue.cancel", {{"job_id", id}})),
              recorded_members("queue_cancel_running"));
}

TEST_F(CompressionMethods, ParamsThatCannotBeTakenAreNamed) {
    const auto said = [&](const std::string& method, const json::object& params) {
        const json::object fault = error(method, params);
        EXPECT_EQ(fault.at("code"), -32602) << json::serialize(fault);
        return std::string(fault.at("message").as_string());
    };
    const std::string submitted = "compression.queue.submit";
    EXPECT_THAT(said(submitted, {{"type", "nope"}}), HasSubstr("Invalid job type: nope"));
    EXPECT_THAT(said(submitted, {{"type", "compress_file"}}), HasSubstr("source_path required"));
    EXPECT_THAT(said(submitted, {{"source_path", 7}}), HasSubstr("source_path is not a text"));
    EXPECT_THAT(said(submitted, {{"source_path", "/etc/passwd"}}),
                HasSubstr("below none of the folders"));
    EXPECT_THAT(said(submitted, {{"source_path", media("x")}, {"priority", "asap"}}),
                HasSubstr("Invalid priority: asap"));
    EXPECT_THAT(said(submitted, {{"source_path", media("x")}, {"dest_path", "/tmp/y"}}),
                HasSubstr("dest_path"));
    EXPECT_THAT(said("compression.queue.running", {{"limit", "many"}}), HasSubstr("limit"));
    EXPECT_THAT(said("compression.queue.running", {{"limit", -1}}), HasSubstr("limit"));
    EXPECT_THAT(said("compression.queue.running", {{"include_pending", 1}}),
                HasSubstr("include_pending"));
    EXPECT_THAT(said("compression.queue.cancel", {}), HasSubstr("job_id required"));
    EXPECT_EQ(error("compression.queue.cancel", {{"job_id", "nope"}}).at("data"),
              "Job not found: nope");
    EXPECT_EQ(result("compression.queue.status").at("total_jobs"), 0) << "none was taken";
}

TEST_F(CompressionMethods, APageIsNotServed) {
    write(media("x"), "x");
    const std::string body =
        R"({"method":"compression.queue.submit","params":{"source_path":")" + media("x") + "\"}}";
    EXPECT_THAT(raw(body, {{"origin", "https://evil.example"}}), HasSubstr("Pages may not"));
    EXPECT_EQ(result("compression.queue.status").at("total_jobs"), 0);
}

TEST_F(CompressionMethods, SubmittedFilesAreCompressedAndFailuresSayWhy) {
    compression_.start();
    const std::string text = text_of_size(300'000);
    write(media("x"), text);
    fs::create_symlink("/etc/passwd", media("link"));
    const json::object done = end_of(submit(media("x")));
    EXPECT_EQ(done.at("status"), "completed") << json::serialize(done);
    EXPECT_EQ(done.at("bytes_processed"), 300'000);
    EXPECT_EQ(expanded(content_of(media("x.zst")), text.size()), text);
    const json::object missing = end_of(submit(media("missing.bin")));
    EXPECT_EQ(missing.at("status"), "failed");
    EXPECT_EQ(missing.at("error"), json::string("Input file not found: " + media("missing.bin")));
    EXPECT_THAT(std::string(end_of(submit(media("link"))).at("error").as_string()),
                HasSubstr("is a link"));
    EXPECT_EQ(result("compression.stats").at("completed_jobs"), 1);
    EXPECT_EQ(result("compression.stats").at("failed_jobs"), 2);
    EXPECT_EQ(result("compression.stats").at("most_used_algorithm"), "zstd");
}

TEST_F(CompressionMethods, ADiskLimitEndsTheJobAndNotTheEngine) {
    compression_.start();
    std::string noise(2'000'000, '\0');
    std::mt19937 random(7);
    std::generate(noise.begin(), noise.end(), [&] { return static_cast<char>(random()); });
    write(media("x"), noise);
    rlimit before{};
    ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
    rlimit small = before;
    small.rlim_cur = 1'000'000;
    ::setrlimit(RLIMIT_FSIZE, &small);
    const json::object done = end_of(submit(media("x")));
    ::setrlimit(RLIMIT_FSIZE, &before);
    EXPECT_EQ(done.at("status"), "failed");
    EXPECT_THAT(std::string(done.at("error").as_string()), HasSubstr("no room for"));
    EXPECT_THAT(names_in(temp_.file("media")), ElementsAre("x"));
}

TEST_F(CompressionMethods, StoppingLeavesNothingAndDoesNotWaitForTheWholeFile) {
    write(media("x"), "");
    fs::resize_file(media("x"), std::uintmax_t{1} << 40);  // A hole of a terabyte: hours.
    compression_.start();
    const std::string id = submit(media("x"));
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (result("compression.queue.status", {{"job_id", id}}).at("bytes_processed") == 0 &&
           std::chrono::steady_clock::now() < deadline) {
        std::this_thread::yield();
    }
    EXPECT_EQ(result("compression.queue.running").at("total_running"), 1);
    compression_.stop();
    EXPECT_EQ(result("compression.queue.status", {{"job_id", id}}).at("status"), "cancelled");
    EXPECT_THAT(names_in(temp_.file("media")), ElementsAre("x"));
}

}  // namespace
}  // namespace sigmacast::host_engine
