# SPDX-License-Identifier: Apache-2.0
"""Pictures of predictions, and of the ground truth beside them."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from mmdet.apis import inference_detector, init_detector

from carafe_tools import det_demo
from tests.runtime.helpers import ROOT, load_tool, write_coco, write_detector_config

demo = load_tool('demo')
PALETTE = [(0, 158, 115), (213, 94, 0)]


@pytest.fixture(scope='module')
def setting(tmp_path_factory):
    """Folder with ``data``, ``config.py`` and ``model.pth``, untrained, which finds five boxes an image."""
    folder = tmp_path_factory.mktemp('demo')
    config = write_detector_config(folder / 'config.py', write_coco(folder / 'data'))
    config.write_text(config.read_text().replace("'blue'))", f"'blue'), palette={PALETTE})"))
    state = init_detector(str(config), device='cpu').state_dict()
    meta = dict(dataset_meta=dict(classes=('red', 'blue'), palette=PALETTE))
    torch.save(dict(state_dict=state, meta=meta), folder / 'model.pth')
    return folder


def options(folder, out, *more):
    argv = ['--config', folder / 'config.py', '--checkpoint', folder / 'model.pth', '--out', out]
    return [str(arg) for arg in (*argv, '--device', 'cpu', '--score-thr', 0, *more)]


def test_one_picture_per_image_of_files_and_folders(setting, tmp_path):
    photo = tmp_path / 'photo.jpg'
    cv2.imwrite(str(photo), np.full((500, 300, 3), 128, np.uint8))
    (setting / 'data' / 'images' / 'notes.txt').touch()
    demo.main([str(photo), str(setting / 'data' / 'images'), *options(setting, tmp_path / 'out')])
    pictures = {path.name: cv2.imread(str(path)) for path in (tmp_path / 'out').iterdir()}
    assert sorted(pictures) == ['0.png', '1.png', '2.png', '3.png', 'photo.png']
    assert pictures['photo.png'].shape == (500, 300, 3)
    # 64 pixels are enlarged to about SIDE, by a whole number.
    assert pictures['0.png'].shape == (64 * 8, 64 * 8, 3)
    assert (pictures['photo.png'] != 128).any()


def test_sheet_with_ground_truth(setting, tmp_path):
    annotations = setting / 'data' / 'instances.json'
    more = ('--grid', '--max-images', 2, '--ground-truth', annotations)
    demo.main([str(setting / 'data' / 'images'), *options(setting, tmp_path, *more)])
    assert [path.name for path in tmp_path.iterdir()] == ['predictions.png']
    sheet = cv2.imread(str(tmp_path / 'predictions.png'))[..., ::-1].astype(int)
    gap, head, side = 12, 48, 512
    assert sheet.shape == (head + 2 * (side + gap), gap + 3 * (side + gap), 3)
    # Inside a rectangle that nothing covers a pixel is half its category's colour, half grey.
    checked = 0
    content = json.loads(annotations.read_text())
    for annotation in content['annotations'][:4]:
        rows, columns = rectangle(annotation)
        free = np.zeros((64, 64), bool)
        free[rows, columns][8:-2, 8:-2] = True  # away from the outline, and the label at the top left
        for other in content['annotations']:
            if other['image_id'] == annotation['image_id'] and other is not annotation:
                free[rectangle(other)] = False
        ys, xs = np.nonzero(free)
        top, left = head + annotation['image_id'] * (side + gap), gap + side + gap
        for y, x in zip(ys[-5:], xs[-5:], strict=True):
            pixel = sheet[top + y * 8 + 4, left + x * 8 + 4]
            grey = 2 * pixel - PALETTE[annotation['category_id'] - 1]
            assert np.ptp(grey) <= 4, (annotation, pixel)
            checked += 1
    assert checked >= 10


def rectangle(annotation):
    x, y, w, h = annotation['bbox']
    return slice(y, y + h), slice(x, x + w)


def test_ground_truth_of_a_coco_file(tmp_path):
    content = dict(
        images=[dict(id=7, file_name='a/1.png', height=4, width=6), dict(id=3, file_name='b/1.png')],
        categories=[dict(id=9, name='cat'), dict(id=4, name='dog'), dict(id=1, name='unknown')],
        annotations=[
            dict(id=1, image_id=7, category_id=4, bbox=[1, 1, 3, 2], iscrowd=0, area=6),
            dict(id=2, image_id=7, category_id=9, bbox=[0, 0, 6, 4], iscrowd=1, area=2),
            dict(id=3, image_id=7, category_id=1, bbox=[0, 0, 1, 1], iscrowd=0, area=1),
            dict(id=4, image_id=3, category_id=9, bbox=[0, 0, 1, 1], iscrowd=0, area=1),
        ],
    )
    content['annotations'][0]['segmentation'] = [[1, 1, 4, 1, 4, 3, 1, 3]]
    content['annotations'][1]['segmentation'] = dict(size=[4, 6], counts=[4, 2, 18])
    file, image = tmp_path / 'annotations.json', tmp_path / 'a' / '1.png'
    file.write_text(json.dumps(content))
    truth = det_demo.GroundTruth(file, [image], ('cat', 'dog'))[image]
    assert truth.labels.tolist() == [1, 2]  # dog, and the palette's entry for crowds
    assert truth.label_names == ['dog', 'cat (crowd)']
    assert truth.bboxes.tolist() == [[1, 1, 4, 3], [0, 0, 6, 4]]
    dog, crowd = np.zeros((2, 4, 6), bool)
    dog[1:3, 1:4] = True
    crowd[:2, 1] = True  # counts run down the columns
    assert (truth.masks.numpy() == [dog, crowd]).all()

    larger = det_demo.enlarge(truth, 2)
    assert larger.bboxes[0].tolist() == [2, 2, 8, 6]
    assert (larger.masks[0].numpy() == np.kron(dog, np.ones((2, 2), bool))).all()


def test_ground_truth_with_boxes_alone(setting, tmp_path):
    """Empty and absent outlines, beside one that is there: drawn as a box; no outline at all: no masks."""
    content = json.loads((setting / 'data' / 'instances.json').read_text())
    first = [a for a in content['annotations'] if a['image_id'] == 0]
    first[0]['segmentation'] = []
    file, image = tmp_path / 'boxes.json', setting / 'data' / 'images' / '0.png'
    file.write_text(json.dumps(content))
    demo.main([str(image), *options(setting, tmp_path / 'out', '--ground-truth', file)])
    drawn = cv2.imread(str(tmp_path / 'out' / '0.png'))
    assert drawn.shape[1] == 3 * 512 + 4 * 12
    truth = det_demo.GroundTruth(file, [image], ('red', 'blue'))[image]
    assert truth.masks.flatten(1).any(1).tolist() == [False, True]
    assert truth.bboxes[0].tolist() == [
        *first[0]['bbox'][:2],
        first[0]['bbox'][0] + first[0]['bbox'][2],
        first[0]['bbox'][1] + first[0]['bbox'][3],
    ]
    del first[1]['segmentation']
    file.write_text(json.dumps(content))
    assert 'masks' not in det_demo.GroundTruth(file, [image], ('red', 'blue'))[image]


def test_nothing_above_the_threshold_is_said_with_the_best_score(setting, tmp_path, capsys):
    images = [str(setting / 'data' / 'images' / f'{i}.png') for i in (0, 1)]
    demo.main([*images, *options(setting, tmp_path), '--score-thr', '0.999'])
    model = init_detector(str(setting / 'config.py'), str(setting / 'model.pth'), device='cpu')
    found = {image: inference_detector(model, image).pred_instances.scores.max().item() for image in images}
    best = max(found, key=found.get)
    told = f'note: nothing scores above --score-thr 0.999: the best is {found[best]:.2g}, in {best}'
    assert told in capsys.readouterr().err.splitlines()
    demo.main([*images, *options(setting, tmp_path)])
    assert 'note:' not in capsys.readouterr().err
    config = tmp_path / 'nothing.py'
    config.write_text(
        f"_base_ = '{setting / 'config.py'}'\nmodel = dict(test_cfg=dict(rcnn=dict(score_thr=1.0)))\n"
    )
    demo.main([images[0], *options(setting, tmp_path), '--config', str(config)])
    assert 'note: nothing was found, at whatever score' in capsys.readouterr().err


def test_each_config_needs_its_own_toolbox_alone():
    """The tool, and what it imports for inpainting and for segmentation, with neither toolbox loaded."""
    code = (
        "import runpy, sys; sys.path.insert(0, 'tools'); runpy.run_path('tools/demo.py')\n"
        'import carafe_tools.seg_demo, carafe_tools.inpaint_demo\n'
        "print(sorted({'mmdet', 'mmseg', 'pycocotools'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ['[]'], done.stdout + done.stderr


def bad_inputs(setting, folder):
    """Name -> (arguments, what the message says)."""
    (folder / 'empty').mkdir()
    (folder / 'text.png').write_text('no picture')
    (folder / 'nothing.png').touch()
    photo = cv2.imencode('.jpg', np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))[
        1
    ].tobytes()
    (folder / 'half.jpg').write_bytes(photo[: len(photo) // 2])
    (folder / 'asserts.py').write_text(
        f"_base_ = '{setting / 'config.py'}'\nmodel = dict(neck=dict(num_outs=1))\n"
    )
    (folder / 'short.pth').write_bytes((setting / 'model.pth').read_bytes()[:2000])
    (folder / 'no_coco.json').write_text('[]')
    torch.save(dict(state_dict={}, meta={}), folder / 'other.pth')
    images = setting / 'data' / 'images'
    plain = options(setting, folder / 'out')
    truth = '--ground-truth'
    return {
        'absent image': (['gone.png', *plain], 'gone.png: no such file'),
        'not an image': ([images, folder / 'text.png', *plain], 'text.png: not a readable image'),
        'an image of no bytes': ([folder / 'nothing.png', *plain], 'nothing.png: not a readable image'),
        'half an image': ([folder / 'half.jpg', *plain], 'half.jpg: not a readable image'),
        'an assertion': (
            [images, *plain, '--config', folder / 'asserts.py'],
            'the model cannot be built: AssertionError in fpn.py, line ',
        ),
        'empty folder': ([folder / 'empty', *plain], 'empty: no image in this folder'),
        'same name twice': ([images / '0.png', images, *plain], 'would both be written to'),
        'overwrites an input': ([images, *options(setting, images)], 'would be overwritten'),
        'no images': ([images, *plain, '--max-images', 0], '--max-images must be at least 1, got 0'),
        'config': ([images, *plain, '--config', 'gone.py'], 'config gone.py does not exist'),
        'checkpoint': ([images, *plain, '--checkpoint', folder / 'short.pth'], 'truncated or damaged'),
        'model': ([images, *plain, '--checkpoint', folder / 'other.pth'], 'other.pth is of another model'),
        'device': ([images, *plain, '--device', 'nowhere'], '--device nowhere'),
        'not COCO': ([images, *plain, truth, folder / 'no_coco.json'], 'no_coco.json is not COCO'),
        'no annotations': ([images, *plain, truth, 'gone.json'], 'gone.json does not exist'),
        'not listed': (
            [folder / 'text.png', *plain, truth, setting / 'data' / 'instances.json'],
            'text.png is not listed in',
        ),
    }


def test_bad_input_is_told_in_one_line(setting, tmp_path, capsys):
    cases = bad_inputs(setting, tmp_path)
    for name, (argv, message) in cases.items():
        if name == 'not listed':
            cv2.imwrite(str(tmp_path / 'text.png'), np.zeros((8, 8, 3), np.uint8))
        capsys.readouterr()
        with pytest.raises(SystemExit) as error:
            demo.main([str(arg) for arg in argv])
        assert error.value.code == 1, name
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith('error: ') and message in last, (name, last)
        assert not (tmp_path / 'out').exists(), name
