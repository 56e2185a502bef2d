"""Three hospitals, each with a table of its own, and one network of what all of them know.

python examples/hospital_tables.py
"""

import csv
import tempfile
from pathlib import Path

import numpy as np

import dimat

random = np.random.default_rng(0)
SITES = [  # patients, their mean age, the share of smokers
    (900, 58, 0.3),
    (250, 78, 0.1),
    (150, 38, 0.5),
]


def patient(age: float, smokers: float) -> dict[str, object]:
    """A made-up row: who is old, smokes, or has a high blood pressure comes back more often."""
    years = np.clip(random.normal(age, 12), 18, 95)
    smokes = random.random() < smokers
    pressure, sugar = random.normal(100 + 0.5 * years, 14), random.gamma(20, 5)
    risk = 0.07 * (years - 60) + 0.04 * (pressure - 130) + 0.03 * (sugar - 100) + 1.2 * smokes
    return {
        "age": round(years),
        "sex": random.choice(["f", "m"]),
        "smoker": "yes" if smokes else "no",
        "systolic": round(pressure),
        "glucose": round(sugar),
        "readmitted": "yes" if risk + random.logistic() > 0 else "no",
    }


with tempfile.TemporaryDirectory() as folder:
    for k, (number, age, smokers) in enumerate(SITES):
        rows = [patient(age, smokers) for _ in range(number)]
        with Path(folder, f"site-{k}.csv").open("w", newline="") as file:
            table = csv.DictWriter(file, rows[0])
            table.writeheader()
            table.writerows(rows)
        share = np.mean([row["readmitted"] == "yes" for row in rows])
        print(f"site {k} has {number} patients: {100 * share:.0f} in 100 come back")
    result = dimat.run(
        data={
            "source": f"csv:{folder}/site-{{agent}}.csv",  # no site reads another one's
            "target": "readmitted",
            "classes": ["no", "yes"],
        },
        agents=3,
        topology="full",
        rounds=10,
        pretrain_epochs=20,
        threads=1,
        controls="local",
        out=f"{folder}/run",
        progress=False,
    )
print("on patients of all three:")  # a fifth of each table is held out for that
[local] = result.controls
for own, alone in zip(result.main.agents, local.agents, strict=True):
    print(f"site {own.agent} alone: {100 * alone.trained:.1f} %, merged: {100 * own.merged:.1f} %")
