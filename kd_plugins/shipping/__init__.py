"""Shipping a student: its network as ONNX, compared with torch, and as int8."""

from kd_plugins.shipping.classifier import export_classifier
from kd_plugins.shipping.detector import Written, export_detector
from kd_plugins.shipping.int8 import quantise
from kd_plugins.shipping.measuring import measure
from kd_plugins.shipping.metadata import metadata_of
from kd_plugins.shipping.onnx_file import OnnxNetwork
from kd_plugins.shipping.pictures import Pictures, calibration_pictures, validation_pictures
from kd_plugins.shipping.ship import Shipment, table

__all__ = [
    'OnnxNetwork',
    'Pictures',
    'Shipment',
    'Written',
    'calibration_pictures',
    'export_classifier',
    'export_detector',
    'measure',
    'metadata_of',
    'quantise',
    'table',
    'validation_pictures',
]
