"""Every file of results/: how it is made, after which others, and what it needs that is not in the repository.
`make results` reads this table (`tools/results.py`), and a test holds it to the files.

`command` is what the file says about itself. `run` is what is called where that is not enough: {work} is the folder of
all experiments, {own} one for this file alone, other names in braces are things of `NEEDS`, to be named on the
command line. What a file rests on is found and not written here, but for pages (`rests`) and for `after`: other
results that are read, or whose clips are used.
"""
from typing import NamedTuple

NEEDS = {"fer2013": "FER2013, tuning part: a folder as `micacl train` reads it, with a column split",
         "ck": "CK+ at 48 px, tuning part: the same, with a column group",
         "crema-d": "CREMA-D with its tables of votes and of people: a folder",
         "video": "the video of predict-real.json: a file",
         "seeds": "weights of res_faces from other seeds: a folder with SEED-0, SEED-1, SEED-2",
         "face-expression": "what `micacl get face-expression` fetches: a folder",
         "fer": "the python of an environment with the package fer (benchmarks/fer_scores.py)",
         "graders": "the python of an environment with nbgrader and otter-grader (`make graders` makes .venv-graders)",
         "mutmut": "the python of an environment with the project and tools/mutants-requirements.txt",
         "checkout": "a checkout of the project at 2950c2c, before the cache had a file a clip"}


class Entry(NamedTuple):
    "How a file is made."
    command: str              # as it stands in the file; several parts of a file begin with it
    run: tuple = ()           # what is called: one or several
    after: tuple = ()         # other files
    also: tuple = ()          # what else is written, to be kept: weights
    rests: tuple = ()         # patterns of notebooks it rests on, in the place of the modules of its script
    anew: bool = False        # the script goes on with the rows that are there: an old file is put away first
    cores: int = 1            # that the seconds in the file are to be divided by
    timed: bool = True        # whether `seconds` in the file are what it took
    kept: str = ""            # why it isn't made here


def experiment(name, *after): return Entry(f"python benchmarks/experiment.py {name} WORK", after=after)


WEIGHTS = "makes weights that other files rest on: to be made alone, looked at and committed"
FER_BAGS = "python benchmarks/real_bags.py {fer2013} {own} --name 'FER2013, tuning part'"
FACES = ("python benchmarks/real_faces.py {%s} --name '%s' --weights {seeds}/SEED-0 {seeds}/SEED-1 {seeds}/SEED-2 "
         "--encoder face-expression {face-expression}")
PREDICT = ("python benchmarks/predict_real.py results/predict-real.json --video %s --acted sad:0:10 happy:10:19.7 "
           '--run "drawn"=drawn --run "synfew"=synfew --fer %s')

ENTRIES = {
    # SynFEW and a frozen backbone: they share clips, features and runs
    "convergence": experiment("convergence"),
    "ablations": experiment("ablations"),
    "bakeoff": experiment("bakeoff"),
    "deciding": experiment("deciding"),
    "partners": experiment("partners"),
    "mccl-parts": experiment("mccl-parts"),
    "edge": experiment("edge"),
    "tails": experiment("tails"),
    "errors": Entry("python benchmarks/errors.py WORK", after=("ablations", "bakeoff")),
    "mccl-why": Entry("python benchmarks/why_mccl.py WORK", after=("ablations",)),
    # the backbone learns too
    "end-to-end": experiment("end-to-end"),
    "bakeoff-end-to-end": experiment("bakeoff-end-to-end"),
    "partners-end-to-end": experiment("partners-end-to-end"),
    "encoders": experiment("encoders"),
    "precision": experiment("precision"),
    "demo": Entry("make demo", ("python -m micacl.cli demo --out {own}", "python tools/record_demo.py {own}")),
    "synfew-audits": Entry("python benchmarks/audits.py WORK", ("python benchmarks/audits.py {own}",),
                           after=("calibration",)),
    # what things cost, and whether they hold
    "bench-cpu": Entry("python benchmarks/bench.py WORK", ("python benchmarks/bench.py {own}",)),
    "export": Entry("python benchmarks/export_large.py results/export.json"),
    "faults": Entry("python benchmarks/faults.py", ("python benchmarks/faults.py --out results/faults.json",)),
    "mutants": Entry("python tools/mutants.py", ("{mutmut} tools/mutants.py --out results/mutants.json",),
                     rests=("micacl/**/*.py",)),
    "kills": Entry("python benchmarks/kills.py --kills 500 --seed 0",
                   ("python benchmarks/kills.py --kills 500 --seed 0 --out results/kills.json",)),
    "predict-cost": Entry("python benchmarks/predict_cost.py results/predict-cost.json --minutes 1 5 --threads 1 2 "
                          "--rounds 3", anew=True),
    "scale-out": Entry("python benchmarks/scale_out.py results/scale-out.json"),
    "pages": Entry("python tools/pages.py --times --jobs 1", rests=("nbs/**/*.ipynb",)),
    "plans": Entry("python tools/rehearse.py", rests=("nbs/*.ipynb", "nbs/lab/*.ipynb")),
    "graders": Entry("python tools/graders.py", ("{graders} tools/graders.py --out results/graders.json",),
                     rests=("nbs/lab/*.ipynb",)),
    "cache": Entry("python benchmarks/cache.py WORK --clips 20000 --rounds 5 --checkout OTHER",
                   ("python benchmarks/cache.py {own} --clips 20000 --rounds 5 --checkout {checkout}",)),
    # real faces
    "real-faces": Entry("python benchmarks/real_faces.py FOLDER",
                        (FACES % ("ck", "CK+ at 48 px, tuning part"), FACES % ("fer2013", "FER2013, tuning part"))),
    "real-heads": Entry("python benchmarks/real_heads.py FOLDER WORK", ("python benchmarks/real_heads.py {ck} {own} "
                        "--name 'CK+ at 48 px, tuning part' --instances 3 --length 1",), cores=2),
    "real-bags": Entry("python benchmarks/real_bags.py FOLDER WORK --name 'FER2013, tuning part'", (FER_BAGS,),
                       cores=2),
    "people": Entry("python benchmarks/people.py CREMA-D", ("python benchmarks/people.py {crema-d}",)),
    "predict-real": Entry(PREDICT % ("VIDEO", "FER/bin/python"), (PREDICT % ("{video}", "{fer}"),), timed=False),
    # they make weights: only when named
    "example": Entry("python benchmarks/example.py WORK", ("python benchmarks/example.py {own}",),
                     also=("micacl/nn/weights/synfew",)),
    "drawn": Entry("python benchmarks/drawn.py WORK --real FER2013=FOLDER --real CK+=FOLDER --fer FER/bin/python",
                   ("python benchmarks/drawn.py {own} --real FER2013={fer2013} --real CK+={ck} --fer {fer}",),
                   also=("micacl/nn/weights/drawn",)),
    "pretrain-r3d_small": Entry('python -c "from micacl.', kept=WEIGHTS),
    "pretrain-res_faces": Entry('python -c "from micacl.train.encoder', kept=WEIGHTS),
    # records
    "calibration": Entry("python benchmarks/calibrate.py WORK CHANGE",
                         kept="a record of steps; each call adds one, and says what was changed"),
    "encoder-tries": Entry("none kept", kept="a record of tries"),
    "hashes": Entry("python benchmarks/hashes.py", kept="a record of environments; the script prints what to compare"),
}

# what each file answers, for readers (`nbs/findings/measured.ipynb`), in groups
ANSWERS = {
    "SynFEW, features of a frozen backbone": {
        "convergence": "How long must each method be trained?",
        "ablations": "What is each part, and each open choice, worth?",
        "bakeoff": "Which remedy for rare classes helps?",
        "deciding": "Does MCCL help a decision that uses its centres?",
        "partners": "Does MCCL gain with more partners? Is it MCCL or contrast?",
        "mccl-parts": "Which part of MCCL does it, where its centres decide?",
        "edge": "Do learning rates beyond the edge of the grid do better?",
        "tails": "Which output stage behind WIAN?",
        "errors": "Which clips go wrong, and why?",
        "mccl-why": "Why does MCCL not show in the scores?"},
    "SynFEW, the backbone learns": {
        "end-to-end": "What are the methods worth if the backbone learns, too?",
        "bakeoff-end-to-end": "Which remedy helps if the backbone learns, too?",
        "partners-end-to-end": "Does MCCL gain if the backbone learns from more partners?",
        "encoders": "Which pre-trained backbone?",
        "precision": "Does bf16 change scores?",
        "demo": "What does `make demo` reach?"},
    "SynFEW itself": {
        "synfew-audits": "Has SynFEW shortcuts? What can be reached on it?",
        "calibration": "How was SynFEW made as hard as DFEW?",
        "hashes": "Is SynFEW the same on other machines?"},
    "Time, memory, faults": {
        "bench-cpu": "Where does the time of a training step go?",
        "export": "Does an exported network say the same?",
        "faults": "What happens if something goes wrong?",
        "mutants": "Do the tests notice small mistakes in the code?",
        "kills": "Does a killed run end with the same numbers?",
        "predict-cost": "What does it cost to score a video?",
        "scale-out": "What do two processes and a million clips cost?",
        "cache": "Does a file a clip make loading slower?",
        "pages": "How long does each page run?",
        "plans": "Does every session of the course plans run?",
        "graders": "Do three graders give the same marks?"},
    "Real faces": {
        "real-faces": "What of drawn faces carries over to real ones?",
        "real-heads": "Which head helps on real clips?",
        "real-bags": "Does weighing instances help on real pictures?",
        "people": "What do people see in CREMA-D?",
        "predict-real": "What do two networks say of one real video?"},
    "Weights that come with the package": {
        "example": "How did the network of the book learn?",
        "drawn": "How good is the default of `micacl predict`?",
        "pretrain-r3d_small": "What has the backbone `r3d_small` learnt?",
        "pretrain-res_faces": "What has the encoder `res_faces` learnt?",
        "encoder-tries": "Which encoders were tried before it?"}}
